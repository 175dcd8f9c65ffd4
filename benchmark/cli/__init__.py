"""The command line: parse, call, print, exit code. Everything heavy is imported inside the verb that needs it.

Exit codes: 0 done; 1 a check failed or some cells failed; 2 bad input; 130 interrupted, and the same command resumes.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import click

from benchmark.cli.comparing import compare, gate
from benchmark.cli.data import data
from benchmark.cli.doctor import doctor
from benchmark.cli.experiments import experiment
from benchmark.cli.models import check_model, models, weights
from benchmark.cli.profiling import profile
from benchmark.cli.published import check_row
from benchmark.cli.runs import bundle, report, run
from benchmark.errors import BenchmarkError


class _Verbs(click.Group):
    """Turns the errors a user can meet into one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as click has it
        try:
            return super().invoke(ctx)
        except BenchmarkError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            if error.filename is None:  # not about a file of the user's: a closed pipe, for one
                raise
            click.echo(f"error: {error.filename}: {error.strerror}; give another place or mend this one", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only break into the way out
            click.echo("interrupted; everything finished is kept, and the same command resumes", err=True)
            ctx.exit(130)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lumbarclip-benchmark")
@click.pass_context
def main(context: click.Context) -> None:
    """Compare medical vision-language models on your own pictures, on one patient-level split.

    \b
    python -m benchmark run --models all                     the embedded phantom, every model, a leaderboard
    python -m benchmark run --data my/card.yaml              your pictures
    python -m benchmark experiment table2                    the paper's tables and figures, beside what is measured
    python -m benchmark gate runs/ci --against ref.json      has a change made anything worse?
    python -m benchmark models                               what there is
    python -m benchmark check-model my-model --plugin my.py  does my model keep the contract?
    """
    if context.invoked_subcommand not in ("weights", "doctor"):
        # Set before any hub library is imported: weights are read locally, and only `weights fetch` may ask a hub.
        # `doctor` says how the user has set it.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


for verb in (
    *(run, report, bundle, compare, gate, experiment),
    *(models, check_model, check_row, profile, data, weights, doctor),
):
    main.add_command(verb)
