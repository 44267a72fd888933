"""How samples of a stack are divided among what a message's time is spent on."""

from __future__ import annotations

import pytest

from tests.bench.budget import costliest, divided, kind_of

LOOP = "run (threading.py);DeliveryLoop.run (worker/consumer.py);Deliverer.deliver (worker/delivery.py)"
SAMPLES = [
    f"{LOOP};HttpProvider.deliver (worker/channels/http.py) 30",
    f"{LOOP};claim (scheduler/store/messages.py);Connection.execute (sqlalchemy/engine/base.py) 50",
    f"{LOOP};claim (scheduler/store/messages.py) 20",
]


@pytest.mark.parametrize(
    ("innermost", "kind"),
    [
        ("HttpProvider.deliver (worker/channels/http.py)", "http"),
        ("Renderer.render (worker/rendering.py)", "rendering"),
        ("ListDumper.dump (psycopg/types/array.py)", "database: rows and statements"),
        ("claim (scheduler/store/messages.py)", "database: store"),
        ("PollPoller.poll (pika/adapters/select_connection.py)", "broker"),
        ("sort_outcomes (worker/results.py)", "claims and results"),
        ("sorted (somewhere.py)", "claims and results"),
    ],
)
def test_the_innermost_frame_that_is_known_says_what_a_sample_is_spent_on(innermost: str, kind: str) -> None:
    assert kind_of(f"{LOOP};{innermost}") == kind


def test_a_stack_of_nobody_is_everything_else() -> None:
    assert kind_of("run (threading.py);wait (threading.py)") == "everything else"


def test_samples_are_divided_into_shares() -> None:
    assert divided(SAMPLES) == {"database: rows and statements": 0.5, "http": 0.3, "database: store": 0.2}


def test_the_costliest_functions_come_first() -> None:
    assert list(costliest(SAMPLES, 2)) == [
        "Connection.execute (sqlalchemy/engine/base.py)",
        "HttpProvider.deliver (worker/channels/http.py)",
    ]
