"""Shapes of datasets for chats, preferences, code, reasoning, questions, pairs and annotations.

As in `tests/data/hub_shapes.py`, names, nesting and types are those of datasets on the Hub, named
before the colon, and the texts are made up.
"""

import json
from typing import Any

from tests.data.shapes import (
    CLASSES,
    LETTERS,
    SHOWN,
    Record,
    case,
    choices,
    class_labels,
    features,
    text,
    turns,
)

LONG = text(0, 30)
PAIR = f"Sentence1: {text(0)}\nSentence2: {text(0, 5)}"


def tree(i: int) -> Record:
    replies = [{"role": "assistant", "text": text(i + 1), "replies": []}]
    return {"role": "prompter", "text": text(i), "replies": replies}


def parts(role: str, words: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": words}]}


# fmt: off
TASK_CASES = [
    # --- chats and preferences
    case("oasst2: a tree of messages",
         lambda i: {"message_tree_id": f"{i}", "tree_state": "ready", "prompt": tree(i)},
         (text(0), ""), asks=True, says=("input=prompt.text",)),
    case("HelpSteer: ratings beside the response",
         lambda i: {"prompt": text(i), "response": text(i, 20), "helpfulness": i % 5,
                    "coherence": 4, "verbosity": i % 3},
         (text(0), text(0, 20)), says=("not read: helpfulness, coherence, verbosity",)),
    case("HelpSteer2: two responses and which is better",
         lambda i: {"prompt": text(i), "response_1": text(i, 20), "response_2": text(i + 1, 20),
                    "preference_strength": i % 3 - 1, "preference_statement": text(i, 40)},
         (text(0), text(0, 20)), asks=True, says=("without it: --columns input=prompt",)),
    case("chatbot_arena: two chats and a winner",
         lambda i: {"question_id": f"{i}", "winner": ["model_a", "tie"][i % 2],
                    "conversation_a": turns(i), "conversation_b": turns(i + 1)},
         (f"Conversation a: {text(0)}\n\n{text(1)}\nConversation b: {text(1)}\n\n{text(2)}",
          "model_a"), asks=True),
    case("SHP: a post, two comments and which is better",
         lambda i: {"post_id": f"{i}", "history": text(i, 30), "human_ref_A": text(i, 9),
                    "human_ref_B": text(i + 1, 9), "labels": i % 2, "score_A": i, "score_B": 7},
         (f"History: {LONG}\nHuman ref A: {text(0, 9)}\nHuman ref B: {text(1, 9)}", "0")),
    case("Gemini: contents with parts",
         lambda i: {"contents": [parts("user", text(i)), parts("model", text(i, 4))]},
         (text(0), text(0, 4))),
    case("a prompt and a story, which no name calls an output",
         lambda i: {"prompt": text(i), "story": text(i, 60)}, (text(0), text(0, 60)), asks=True),
    # --- code
    case("kodcode: a solution, and tests of it",
         lambda i: {"style": "instruct", "question": text(i), "solution": f"def f():\n  return {i}",
                    "test": f"assert f() == {i}", "test_info": [{"function_name": "f"}]},
         (text(0), "def f():\n  return 0"), says=("not read: style, test, test_info",)),
    case("code_instructions: the same row once more as one text",
         lambda i: {"instruction": text(i), "input": text(i, 3), "output": f"f({i})",
                    "prompt": f"### Instruction:\n{text(i)}\n### Input:\n{text(i, 3)}\n### Output:"
                              f"\nf({i})"},
         (f"{text(0)}\n\nInput: {text(0, 3)}\nOutput:", "f(0)"), says=("not read: prompt",)),
    case("apps: solutions as a list in JSON",
         lambda i: {"problem_id": i, "question": text(i), "difficulty": "interview",
                    "solutions": json.dumps([f"f({i})", f"g({i})"]), "starter_code": ""},
         (text(0), "f(0)"), says=("24 of the first 24 rows hold several outputs",)),
    case("apps, with all solutions",
         lambda i: {"question": text(i), "solutions": json.dumps([f"f({i})", f"g({i})"])},
         (text(0), "f(0), g(0)"), options=("--columns", "input=question,output=solutions.*")),
    case("sql_create_context: names with a prefix",
         lambda i: {"id": i, "sql_prompt": text(i), "sql_context": f"CREATE TABLE t{i} (a INT);",
                    "sql": f"SELECT {i} FROM t{i}"},
         (text(0), "SELECT 0 FROM t0"), asks=True),
    # --- reasoning
    case("Multilingual-Thinking: thoughts within the turns",
         lambda i: {"reasoning_language": "French", "analysis": text(i, 20), "final": text(i, 4),
                    "messages": [{**turn, "thinking": text(i, 20) if k else None}
                                 for k, turn in enumerate(turns(i))]},
         (text(0), text(1)), says=("The turns hold thinking, which is not read",)),
    case("medical-o1: a chain of thought between question and response",
         lambda i: {"Question": text(i), "Complex_CoT": text(i, 30), "Response": text(i, 9)},
         (text(0), text(0, 9)), says=("not read: Complex_CoT",)),
    case("OpenR1-Math: a problem, its solutions, and the chat about it",
         lambda i: {"problem": text(i), "solution": text(i, 9), "answer": f"{i}",
                    "generations": [text(i, 30)], "correctness": [True], "messages": turns(i)},
         (text(0), text(1)), says=("not read: problem, solution, answer",)),
    # --- questions
    case("CoQA: lists of questions and answers",
         lambda i: {"source": "cnn", "story": text(i, 30), "questions": [text(i), text(i + 1)],
                    "answers": {"input_text": [text(i, 2), text(i, 3)], "answer_start": [1, 2]}},
         (f"Story: {LONG}\nQuestions: {text(0)}", text(0, 2)), "parquet", asks=True,
         says=("each row holds several questions, of which the first is read",)),
    case("dream: a dialogue as a list, and the choices of a question",
         lambda i: {"dialogue": [text(i), text(i + 1)], "question": text(i, 5),
                    "choice": choices(i)[:2], "answer": choices(i)[i % 2]},
         (f"Dialogue: {text(0)}\n{text(1)}\nQuestion: {text(0, 5)}\n- {text(0, 2)}\n- {text(1, 2)}",
          text(0, 2)), "parquet"),
    case("a column for each letter",
         lambda i: {"question": text(i), **dict(zip(LETTERS, choices(i), strict=True)),
                    "answer": LETTERS[i % 4]},
         (f"{text(0)}\n{SHOWN}", text(0, 2))),
    case("options within one text",
         lambda i: {"question": text(i), "options": f"A) {text(i, 2)} B) {text(i + 1, 2)}",
                    "answer": LETTERS[i % 2]},
         (f"Question: {text(0)}\nOptions: A) {text(0, 2)} B) {text(1, 2)}", "A")),
    case("casehold: more than two texts with numbers are no pair",
         lambda i: {"citing_prompt": text(i, 30), "holding_0": text(i, 5), "label": f"{i % 3}",
                    "holding_1": text(i + 1, 5), "holding_2": text(i + 2, 5)},
         (LONG, "0"), asks=True),
    case("questions about an abstract",
         lambda i: {"title": text(i, 3), "abstract": text(i, 30), "question": text(i),
                    "answer": text(i, 2)},
         (f"Abstract: {LONG}\nQuestion: {text(0)}", text(0, 2))),
    case("copa: a premise, and whether its cause or effect is asked for",
         lambda i: {"premise": text(i), "choice1": text(i, 3), "choice2": text(i + 1, 3),
                    "question": ["cause", "effect"][i % 2], "idx": i, "label": i % 2},
         (f"Premise: {text(0)}\nQuestion: cause\n- {text(0, 3)}\n- {text(1, 3)}", text(0, 3))),
    # --- pairs and labels
    case("snli: rows that the annotators did not agree on",
         lambda i: {"premise": text(i), "hypothesis": text(i, 4), "label": i % 4 - 1},
         (f"Premise: {text(1)}\nHypothesis: {text(1, 4)}", "negative"), says=("6 of 24 rows",),
         card=features(class_labels(label=CLASSES), premise="string", hypothesis="string")),
    case("stsb: a score from 0 to 1",
         lambda i: {"sentence1": text(i), "sentence2": text(i, 5), "score": i / 24},
         (PAIR, "0.0")),
    case("quora: a flag says whether two questions are the same",
         lambda i: {"id": i, "question1": text(i), "question2": text(i, 5),
                    "is_duplicate": i % 2 == 0},
         (f"Question1: {text(0)}\nQuestion2: {text(0, 5)}", "true")),
    case("quora: the two questions as a list in a field",
         lambda i: {"questions": {"id": [i, i + 1], "text": [text(i), text(i, 5)]},
                    "is_duplicate": i % 2 == 0},
         (f"{text(0)}\n{text(0, 5)}", "true"), asks=True),
    case("text_a and text_b", lambda i: {"guid": i, "text_a": text(i), "text_b": text(i, 5),
                                         "label": ["yes", "no"][i % 2]},
         (f"Text a: {text(0)}\nText b: {text(0, 5)}", "yes")),
    case("reuters: topics as a list of names",
         lambda i: {"text": text(i), "topics": [["earn", "acq"], ["grain"], []][i % 3]},
         (text(0), "earn, acq"), asks=True, says=("without it: --columns output=text",)),
    case("spans of entities beside their text",
         lambda i: {"text": text(i), "spans": [{"start": 0, "end": 3, "label": LETTERS[i % 4]}]},
         (text(0), "A"), asks=True),
    case("labels and names of columns with spaces",
         lambda i: {"Ticket ID": i, "Customer Message": text(i),
                    "Intent Category": ["very negative", "quite good"][i % 2]},
         (text(0), "very negative")),
    case("nested facts about each row",
         lambda i: {"text": text(i), "label": CLASSES[i % 3],
                    "metadata": {"author": {"name": text(i, 2)}, "tags": ["a"]}},
         (text(0), "negative")),
    case("Russian names", lambda i: {"текст": text(i, 12), "метка": ["да", "нет"][i % 2]},
         (text(0, 12), "да")),
    case("Chinese names", lambda i: {"问题": text(i, 12), "答案": text(i, 4)},
         (text(0, 12), text(0, 4)), asks=True),
    # --- text to text
    case("a summary as a list of bullets",
         lambda i: {"document": text(i, 30), "summary": [f"• {text(i, 4)}", f"• {text(i, 5)}"]},
         (LONG, f"• {text(0, 4)}\n• {text(0, 5)}")),
    case("recipes: as many ingredients as steps",
         lambda i: {"title": text(i, 3), "ingredients": [text(i, 2), text(i, 3)],
                    "directions": [text(i, 9), text(i, 8)], "NER": ["egg", "salt"]},
         (f"{text(0, 2)}\n{text(0, 3)}", f"{text(0, 9)}\n{text(0, 8)}"), asks=True),
    case("jfleg: several corrections of a sentence",
         lambda i: {"sentence": text(i), "corrections": [text(i, 9), text(i, 10)]},
         (text(0), text(0, 9)), says=("output=corrections.*",)),
    case("embeddings beside a text",
         lambda i: {"id": i, "text": text(i), "emb": [0.1 * i, 0.2, 0.3]}, ("", text(0)),
         says=("not read: emb",)),
]

VECTORS = [
    case("embeddings alone", lambda i: {"id": f"{i}", "embedding": [0.1 * i, 0.2]}, ("", "")),
    case("embeddings and a label",
         lambda i: {"embedding": [[0.1 * i, 0.2]], "label": i % 3}, ("", "")),
]
"""Datasets without any text."""
# fmt: on
