"""``python -m dal``: the same as the ``dal`` program."""

from dal.cli import main

main()
