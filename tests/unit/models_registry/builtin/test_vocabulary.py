"""The tokenizer's vocabulary: small, the same every time, with the grammar's words whole."""

import subprocess
import sys

from models_registry.builtin.captions import GRAMMAR_WORDS
from models_registry.builtin.vocabulary import END_OF_WORD, VOCABULARY_SIZE, build_vocabulary


def test_the_vocabulary_has_the_promised_size_and_no_gaps() -> None:
    vocabulary, merges = build_vocabulary()
    assert len(vocabulary) <= VOCABULARY_SIZE
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert all(left + right in vocabulary for left, right in merges)


def test_every_word_of_the_grammar_is_one_token() -> None:
    vocabulary, _ = build_vocabulary()
    assert [word for word in GRAMMAR_WORDS if word.isalpha() and word + END_OF_WORD not in vocabulary] == []


def test_the_public_constants_need_no_torch() -> None:
    """The web process reads them, and it must never import torch."""
    code = "import sys, models_registry.builtin; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
