"""Receive batches and deliver them until told to stop. Nothing a batch or a server does ends the loop.

A batch whose delivery raises keeps its lease until that lapses; it is then due again, each time with
one attempt fewer for its messages, so a poisonous one ends among the dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from threading import Thread
from typing import Final

from loguru import logger
from sqlalchemy.exc import DBAPIError

from scheduler.broker.port import Consumer, Delivery
from scheduler.clock import Clock
from scheduler.errors import LeaseLost, Unavailable
from worker.delivery import Deliverer
from worker.leases import LeaseKeeper, Shutdown

_LONGEST_WAIT: Final = timedelta(seconds=1)
_REST_AFTER_FAILURE: Final = timedelta(seconds=1)


class DeliveryLoop:
    """One thread's work: receive, deliver, settle."""

    def __init__(
        self,
        consumer: Consumer,
        deliverer: Deliverer,
        keeper: LeaseKeeper,
        shutdown: Shutdown,
        clock: Clock,
        lease_for: timedelta,
    ) -> None:
        self._consumer = consumer
        self._deliverer = deliverer
        self._keeper = keeper
        self._shutdown = shutdown
        self._clock = clock
        self._lease_for = lease_for

    def run(self) -> None:
        """Deliver until the shutdown is requested."""
        is_cut_off = False
        while not self._shutdown.is_requested():
            try:
                self.deliver_next(_LONGEST_WAIT)
                if is_cut_off:
                    logger.info("receiving_again")
                is_cut_off = False
            except Unavailable as error:
                # Said once: it goes on every second until the server is back.
                logger.bind(cause=str(error)).log("DEBUG" if is_cut_off else "WARNING", "receiving_failed")
                is_cut_off = True
                self._rest()
            except Exception:
                logger.exception("delivery_loop_failed")
                self._rest()
        self._consumer.close()

    def deliver_next(self, wait: timedelta) -> bool:
        """Deliver one batch if there is one within `wait`; whether there was.

        Batches that could only be handed back, as their provider's circuit is open, are left with the broker.
        """
        paused = self._deliverer.paused_channels()
        delivery = self._consumer.receive(self._lease_for, wait, paused)
        if delivery is None:
            return False
        held = self._keeper.hold(delivery.batch, self._shutdown)
        settling = _Settling(delivery)
        try:
            # Settled before it is recorded, so that the next reference arrives meanwhile.
            self._deliverer.deliver(delivery.batch, held, settling.settle)
        except LeaseLost:
            logger.bind(batch_id=delivery.batch.id).warning("outcomes_fenced_off")
        except DBAPIError as error:
            self._leave(delivery, error)
        except Exception:
            logger.bind(batch_id=delivery.batch.id).exception("batch_failed")
        finally:
            self._keeper.release(held)
        settling.settle()
        return True

    def _leave(self, delivery: Delivery, error: DBAPIError) -> None:
        logger.bind(batch_id=delivery.batch.id, cause=type(error.orig).__name__).warning("database_failed")
        self._rest()

    def _rest(self) -> None:
        self._clock.wait(self._shutdown.requested, self._clock.now() + _REST_AFTER_FAILURE)


class _Settling:
    """Settles a delivery once, whoever asks first. The lease is in the log, so the broker need not keep it."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery: Delivery | None = delivery

    def settle(self) -> None:
        delivery, self._delivery = self._delivery, None
        if delivery is not None:
            delivery.settle()


def run_side_by_side(loops: Sequence[DeliveryLoop]) -> None:
    """Run the loops in threads of their own until all have ended."""
    running = [Thread(target=loop.run, name=f"delivery-{number}") for number, loop in enumerate(loops)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
