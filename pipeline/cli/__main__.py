"""``python -m spineline.pipeline.cli``: the command line without the installed script."""

from spineline.pipeline.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
