"""The magics ``%tessera`` and ``%%tessera`` in every kernel of this environment; read by IPython."""

c = get_config()  # noqa: F821  # IPython puts it in
c.InteractiveShellApp.extensions = ["tessera_lab"]
