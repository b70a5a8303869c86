"""Every sentence of the report and the command line, in every language."""
