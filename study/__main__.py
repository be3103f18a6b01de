"""Compares autoregression with diffusion as a plan says, and writes the report.

    python -m study configs/study/smoke.yaml

Started again, it goes on with what is not done; started several times at once, the work is shared. In the plan's folder
there are then report.html, report.json, and under cells/ the lines that every number follows from.
"""

import argparse
from pathlib import Path


def main() -> None:
    """Does all cells that are missing, then computes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML file, such as one of configs/study/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that win over the file's")
    parser.add_argument("--contests", nargs="+", help="only these of the plan's; the others may follow later")
    parser.add_argument("--docs", type=Path, help="a file for the report as Markdown, such as docs/study.md")
    parser.add_argument("--report-only", action="store_true", help="compute the report of finished cells anew")
    arguments, more = parser.parse_known_args()
    if arguments.docs and arguments.docs.suffix != ".md":
        parser.error(f"--docs is {arguments.docs}, but the report there is Markdown: end its name in .md")

    from runtime.config import load_config
    from study.contests import Study
    from study.plan import Plan

    try:
        study = Study(load_config(Plan, arguments.plan, [*arguments.overrides, *more]), arguments.contests)
        if missing := [cell.name for cell in study.cells if arguments.report_only and not study.done(cell.name)]:
            parser.error(f"{len(missing)} cells are not done, the first is {missing[0]}: leave out --report-only")
        study.run()
        from study.report import write

        for path in write(study, arguments.docs):
            print(f"wrote {path}")
    except (ValueError, OSError) as error:
        parser.exit(2, f"study: {error}\n")


if __name__ == "__main__":
    main()
