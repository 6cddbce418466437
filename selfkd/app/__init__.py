"""A web page that compares a text query with the same query in audio; needs the extra `selfkd[app]`."""
