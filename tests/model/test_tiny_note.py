"""The bundled model says what it can see."""

from selfkd.model.tiny import TINY_NOTE, note_tiny_llm, tiny_model_config


def test_tiny_model_names_its_images_unless_all_are_of_the_toy_world(capsys):
    config, _ = tiny_model_config()
    note_tiny_llm(config, ["world", "easy-vqa"])
    assert capsys.readouterr().out == ""
    for sources in (["world", "questions"], ["mme"], []):
        note_tiny_llm(config, sources)
        assert capsys.readouterr().out == f"{TINY_NOTE}\n" and len(TINY_NOTE) <= 80
    config.get_text_config().hidden_size *= 2  # another model
    note_tiny_llm(config, ["mme"])
    assert capsys.readouterr().out == ""
