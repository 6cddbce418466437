"""A trained model behind OpenAI's chat protocol; needs the extra `selfkd[serve]`."""
