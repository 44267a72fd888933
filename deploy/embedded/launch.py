"""Becomes another program: under an account that is not root's, and tied to the life of its parent.

    python -I -S launch.py RUN_AS PARENT_PID UID GID PROGRAM [ARGUMENT …]

RUN_AS is `invoker` (no change), `namespace` (a user namespace in which the caller is UID and GID and has no
privileges; files stay owned by the caller outside) or `user` (root only: become UID and GID). The process id
stays the same.

A script of its own, of the standard library only: what it does is not safe between the fork and the exec of a
program with threads, which rules out `preexec_fn`. Exit status 125: the account was refused.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

ACCOUNT_REFUSED = 125

_CLONE_NEWUSER = 0x10000000  # linux/sched.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become(run_as: str, uid: int, gid: int) -> None:
    """Leave the caller's privileges behind. Raises OSError where the system refuses."""
    if run_as == "namespace":
        _enter_user_namespace(uid, gid)
    elif run_as == "user":
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def _enter_user_namespace(uid: int, gid: int) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER)
    # A group map may be written without privileges only once setgroups is given up (user_namespaces(7)).
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {outer_gid} 1")


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel interrupt this process when its parent's thread ends. Linux only; elsewhere nothing.

    To be called last: every change of credentials clears it (PR_SET_PDEATHSIG(2const)). SIGINT is
    PostgreSQL's fast shutdown: sessions are ended and the data is left clean.
    """
    if sys.platform != "linux":
        return
    _call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGINT))
    if os.getppid() != parent_pid:
        sys.exit(ACCOUNT_REFUSED)


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def main(arguments: list[str]) -> None:
    """Do what the module says; returns never."""
    run_as, parent_pid, uid, gid, *program = arguments
    try:
        become(run_as, int(uid), int(gid))
        end_with_parent(int(parent_pid))
    except (OSError, AttributeError) as error:
        sys.stderr.write(f"{run_as}: {error}\n")
        sys.exit(ACCOUNT_REFUSED)
    os.execv(program[0], program)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
