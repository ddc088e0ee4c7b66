"""From stories to arrays of token ids. Of the rest of tinylm2, data/ imports only `errors` and `files`."""

from tinylm2.data.babi import FileTask, find_file, read_examples, read_stories, story_text, write_stories
from tinylm2.data.babilong import read_babilong
from tinylm2.data.batch import Batch, Sequence, collate, make_batch, make_prompts
from tinylm2.data.filler import BookFiller, GrammarFiller
from tinylm2.data.haystack import EncodedExample, insert_in_haystack, without_filler
from tinylm2.data.published import PublishedTokenizer
from tinylm2.data.rng import DATA, EVALUATION, INIT, Rng
from tinylm2.data.samplers import (
    BucketSampler,
    HaystackSampler,
    Stories,
    encode_examples,
    generated_examples,
    max_answer_len,
)
from tinylm2.data.stories import Example, Fact, Question, Story, examples
from tinylm2.data.tasks import TASKS, Task
from tinylm2.data.text import TextSampler
from tinylm2.data.tokenizer import Tokenizer, bpe_tokenizer, word_tokenizer, words_of
from tinylm2.errors import BadInput

__all__ = [
    "DATA", "EVALUATION", "INIT", "TASKS",
    "BadInput", "Batch", "BookFiller", "BucketSampler", "EncodedExample", "Example", "Fact", "FileTask",
    "GrammarFiller",
    "HaystackSampler", "PublishedTokenizer", "Question", "Rng", "Sequence", "Stories", "Story", "Task",
    "TextSampler", "Tokenizer",
    "bpe_tokenizer", "collate", "encode_examples", "examples", "find_file", "generated_examples", "insert_in_haystack",
    "make_batch", "make_prompts", "max_answer_len", "read_babilong", "read_examples", "read_stories", "story_text",
    "without_filler", "word_tokenizer", "words_of",
    "write_stories",
]
