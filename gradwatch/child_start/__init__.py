"""A folder put on PYTHONPATH below `gradwatch run`; see `gradwatch.script`."""
