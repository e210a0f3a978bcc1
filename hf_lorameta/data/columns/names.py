"""Names that columns of datasets on the Hub have, by what such columns usually hold.

They are normalized, see `hf_lorameta.data.columns.table_view.normalized`; the first are preferred.
"""

import re

INPUTS = ("input", "prompt", "question", "instruction")
SYSTEM = ("system", "system_prompt", "definition")
CONTEXTS = (
    "context", "passage", "paragraph", "article", "document", "story", "support", "background",
    "evidence", "ctx", "schema", "facts", "passages", "contexts", "tools", "dialogue", "dialog",
    "history", "abstract", "body",
)  # fmt: skip
QUESTIONS = (
    "question", "query", "prompt", "problem", "claim", "hypothesis", "goal", "input",
    "question_stem", "question_concept", "question_text", "question_body", "aspect", "word",
    "statement", "questions",
)  # fmt: skip
TEXTS = (
    "text", "sentence", "dialogue", "dialog", "content", "body", "review", "review_body",
    "review_text", "comment", "comment_text", "tweet", "post", "source", "src", "utterance", "utt",
    "email", "message", "inputs", "input_text", "source_text", "original", "transcript", "report",
    "description", "documents", "tokens", "words", "sms", "instruction", "user", "human", "premise",
    "patient", "mr", "meaning_representation",
)  # fmt: skip
TITLES = (
    "title", "headline", "heading", "review_title", "question_title", "subject", "subject_line",
)  # fmt: skip
OUTPUTS = (
    "label_text", "label_name", "label", "labels", "sentiment", "polarity", "stance",
    "summary", "highlights", "abstract", "tldr",
    "target", "targets", "target_text", "class", "category", "answer", "answers", "output",
    "outputs", "output_text", "response", "completion", "translation", "intent", "emotion", "gold",
    "solution", "correct_answer", "assistant", "reply", "tgt", "tags", "ner_tags", "simplified",
    "simplification", "corrected", "correction", "paraphrase", "canonical_solution", "keywords",
    "corrections", "ideal", "chosen", "completions", "responses", "solutions", "positive", "doctor",
)  # fmt: skip
LABELS = ("label", "labels", "tag", "tags", "category", "categories", "class", "classes", "topics")
LABEL_NAMES = (
    *LABELS,
    "intent",
    "emotion",
    "sentiment",
    "polarity",
    "stance",
    "topic",
    "type",
    "genre",
)
"""Columns that hold labels, of which some rows may show each only once."""
NOT_MEANT = re.compile(r"(hard_)?(rejected|neg|negatives?)(_.*|\d*)")
DAMAGED = re.compile(
    r"((dis|in|un|non|mis|ill)_?(fluent|correct|grammatical|formed|spelled|clean|formal)"
    r"|noisy|corrupt(ed)?|erroneous|wrong|broken|garbled|errorful)(_(text|sentence))?"
)
"""A text that is to be corrected."""
NUMBERED = re.compile(
    r"(.*_)?(ref(erence)?|target|gold|summary|translation|paraphrase|simplification|correction)_?\d{1,2}"
)
"""One of several right outputs, such as ``ref1``."""
WORDED = re.compile(r"(.+)_(text|name|desc|description|words?|str(ing)?)")
"""What the numbers in another column stand for, such as ``label_desc``."""
SENTENCES = (
    "sentence_#", "sentence_id", "sentence_number", "sentence_no", "sentence_idx", "sent_id",
    "sentence",
)  # fmt: skip
WORDS = ("word", "words", "token", "tokens", "form")
WORD_TAGS = ("ner_tag", "ner_tags", "ner", "tag", "tags", "label", "labels", "pos", "upos")
CODE = ("code", "sql", "snippet", "program")
STATED = ("prompt", "question", "instruction", "query", "problem", "question_stem", "claim")
SUMMARIES = ("summary", "highlights", "abstract", "tldr")
VERDICTS = ("label", "is_correct", "correct", "is_answer", "is_safe")
JUDGMENTS = ("answer", "assignment_status")
REFUSED = (False, "reject", "ignore", "rejected", "Rejected")
JUDGED = ("accept", "approved", "Approved", "Submitted", *REFUSED[1:])
"""What an annotator or a client said of a row, as in files of Prodigy and MTurk."""
LABEL_ENDINGS = ("_label", "_sentiment", "_class", "_category", "_intent", "_emotion", "_topic")
WEAK_OUTPUTS = (
    "topic", "type", "stars", "star", "rating", "score", "overall", "headline", "toxicity",
    "relevance", "similarity", "similarity_score", "ref", "reference", "references",
)  # fmt: skip
STARS = ("stars", "star", "rating", "overall")
PAIRS = (("premise", "hypothesis"), ("question", "sentence"), ("claim", "evidence"))
CHOICES = (
    "choices", "choice", "options", "endings", "answer_choices", "candidates", "answers",
    "mc_options",
)  # fmt: skip
CHOICE = re.compile(r"(?:(choice|option|sol|solution|op|opt|answer|ans|ending)_?[0-9a-h]|[a-h])")
RIGHT = (
    "accept", "answer", "answer_key", "label", "correct_answer", "correct", "correct_option", "cop",
    "answer_index", "answer_idx", "correct_idx", "correct_answer_id", "correct_choice", "target",
    "gold", "answers",
)  # fmt: skip
CONVERSATIONS = (
    "messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat",
    "utterances", "contents", "data",
)  # fmt: skip
BEFORE = re.compile(r"parent(_id)?|(in_)?(reply|response)_to(_.*)?")
"""The message that a message replies to."""
LANGUAGE = re.compile(r"[a-z]{2,3}(_[a-z]{2,4})?")
TWO_LETTERS = re.compile(r"[a-z]{2}(_[a-z]{2,4})?")
"""A language, where three letters may be a word."""
LANGUAGES = {
    "english", "german", "french", "spanish", "italian", "portuguese", "dutch", "polish", "russian",
    "ukrainian", "czech", "romanian", "hungarian", "greek", "turkish", "arabic", "hebrew",
    "persian", "hindi", "urdu", "bengali", "tamil", "telugu", "marathi", "nepali", "sanskrit",
    "chinese", "mandarin", "cantonese", "japanese", "korean", "vietnamese", "thai", "indonesian",
    "malay", "javanese", "tagalog", "filipino", "swahili", "yoruba", "igbo", "hausa", "zulu",
    "xhosa", "amharic", "somali", "shona", "darija", "dogri", "kannada", "malayalam", "punjabi",
    "gujarati", "finnish", "swedish", "norwegian", "danish", "icelandic", "irish", "welsh",
    "basque", "catalan", "galician", "latin", "esperanto", "deutsch", "français", "español",
    "italiano", "português", "nederlands", "polski", "русский", "türkçe", "العربية", "日本語",
    "中文", "한국어", "英語", "英文", "eng", "deu", "fra", "spa", "jpn", "kor", "zho", "rus", "ind",
}  # fmt: skip
"""Languages that columns are named after, in words or three letters."""
