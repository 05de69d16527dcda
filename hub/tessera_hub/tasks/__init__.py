"""Tasks and runs: the one state machine, submission, cancelling, retries.

* ``machine.py`` – which phase may follow which, and the only code that changes a run's phase;
* ``submission.py`` – what a specification must pass, ``storing.py`` – from there to a queued run;
* ``views.py`` – rows to the API's schemas;
* ``reasons.py`` – the stable reason codes with their texts.
"""
