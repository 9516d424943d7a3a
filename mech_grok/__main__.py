"""`python -m mech_grok`."""

from mech_grok.cli import main

main()
