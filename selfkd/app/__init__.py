"""A page in the browser that asks one question in writing and in speech; needs the extra `selfkd[app]`."""
