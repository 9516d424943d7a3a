"""From the arguments of a process to its exit code."""

import os
import signal
import sys
from typing import NoReturn

from cyclopts import CycloptsError

import mech_grok.cli.reproduce
import mech_grok.cli.runs
import mech_grok.cli.sweep  # noqa: F401 (each adds its commands)
from mech_grok.cli.app import app
from mech_grok.errors import UserError
from mech_grok.signals import Interrupted, Terminated, unwinding


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    # Idle OpenMP threads that spin slow everything down many times over when another process wants the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with unwinding():
            app(arguments, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except CycloptsError as error:
        command = " ".join(["mech-grok", *(error.command_chain or ())])
        _stop(f"{' '.join(str(error).split())} See {command} --help.", 2)
    except UserError as error:
        _stop(str(error), 2)
    except (Interrupted, Terminated) as error:
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:
        # Whoever read the output has gone; what is still buffered for it must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        _stop(f"{error.filename or 'writing'}: {error.strerror or error}", 2)


def _stop(message: str, code: int) -> NoReturn:
    print(f"mech-grok: {message}", file=sys.stderr)
    raise SystemExit(code)
