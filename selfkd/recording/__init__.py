"""People's recordings of sentences about images, as a source that `selfkd synthesize --source jsonl` reads."""
