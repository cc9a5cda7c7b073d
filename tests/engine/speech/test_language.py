from __future__ import annotations

from engine.speech.language import elect


def test_a_sure_clip_outweighs_two_unsure_ones() -> None:
    unsure = {"en": 0.4, "de": 0.3, "nl": 0.3}
    assert elect([unsure, unsure, {"de": 0.95, "en": 0.05}]) == "de"


def test_only_candidates_are_elected() -> None:
    assert elect([{"en": 0.9, "de": 0.02, "fr": 0.08}], ("de", "fr")) == "fr"


def test_the_first_candidate_stands_in_where_the_model_knows_none() -> None:
    assert elect([{"en": 0.9}], ("tlh", "de")) == "tlh"


def test_a_file_without_speech_is_english() -> None:
    assert elect([]) == "en"


def test_a_model_without_cantonese_hears_it_as_chinese() -> None:
    heard = {"zh": 0.98, "en": 0.01}
    assert elect([heard], ("yue", "en")) == elect([heard], ("en", "yue")) == "yue"
    assert elect([heard]) == "zh"


def test_chinese_is_not_counted_for_cantonese_where_either_could_be_said() -> None:
    assert elect([{"zh": 0.98, "en": 0.01}], ("yue", "zh")) == "zh"
    assert elect([{"zh": 0.6, "yue": 0.1, "en": 0.3}], ("yue", "en")) == "en"


def test_the_first_candidate_stands_in_where_a_report_names_none() -> None:
    assert elect([{"nl": 0.995}], ("ja", "de")) == "ja"
    assert elect([{"nl": 0.995}, {"nl": 0.9, "de": 0.09}], ("ja", "de")) == "de"
