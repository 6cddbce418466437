"""Serves a model with OpenAI's chat-completions protocol; needs the extra `selfkd[serve]`."""
