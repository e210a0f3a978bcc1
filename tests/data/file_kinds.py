"""Files as they lie on people's disks and in public repositories, small and with made-up texts.

Each has the layout of the original: its name, its columns, its order, its encoding.
"""

# ruff: noqa: E501 - a kind a line

import gzip
import io
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.shapes import LETTERS, ROWS, Record, choices, csv_text, jsonl, text, turns, zipped
from tests.data.sheets import ods, xlsx

INTENTS = ["card_arrival", "lost_card", "top_up"]
MOODS = ["negative", "neutral", "positive"]
LONG, QUOTE = text(0, 30), chr(34)
Files = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A file or a folder, and how it is read.

    Attributes:
        name: of the kind.
        files: by their paths; the first one is named, or the folder that it is in.
        columns: that are read.
        output: how the first output begins.
        asks: how often an error proposes a command before that.
        refused: a part of the advice, if the file is none that is read.
        made: the rows that the Python in this advice makes.
    """

    name: str
    files: Files
    columns: str = ""
    output: str = ""
    asks: int = 0
    refused: str = ""
    made: Sequence[Any] = ()

    @property
    def named(self) -> str:
        return next(iter(self.files)).partition("/")[0]


def lines(make: Callable[[int], str], start: str = "", count: int = ROWS) -> bytes:
    return (start + "".join(f"{make(i)}\n" for i in range(count))).encode()


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def rows(make: Callable[[int], Record]) -> list[Record]:
    return [make(i) for i in range(ROWS)]


def table(make: Callable[[int], Record], mark: str = ",") -> bytes:
    return csv_text(
        [{k: f'"{v}"' if mark in str(v) else v for k, v in make(i).items()} for i in range(ROWS)],
        mark,
    ).encode()


def squad(answers: Callable[[int], Record]) -> bytes:
    return as_json(
        {
            "version": "1.1",
            "data": [
                {
                    "title": "T",
                    "paragraphs": [
                        {
                            "context": text(i, 30),
                            "qas": [{"id": f"{i}", "question": text(i + 1), **answers(i)}],
                        }
                    ],
                }
                for i in range(ROWS)
            ],
        }
    )


def answer(i: int) -> Record:
    return {"answers": [{"text": text(i, 2), "answer_start": 4}]}


def database(**tables: Sequence[Record]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.db")
        connection = sqlite3.connect(path)
        for name, records in tables.items():
            connection.execute(f"CREATE TABLE {name} ({', '.join(records[0])})")
            marks = ", ".join("?" * len(records[0]))
            connection.executemany(
                f"INSERT INTO {name} VALUES ({marks})", [tuple(r.values()) for r in records]
            )
        connection.commit()
        connection.close()
        return path.read_bytes()


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def sheet(make: Callable[[int], Record]) -> list[tuple[Any, ...]]:
    return [tuple(make(0)), *(tuple(make(i).values()) for i in range(ROWS))]


def ticket(i: int) -> Record:
    return {
        "Ticket ID": i,
        "Subject": text(i, 3),
        "Description": text(i, 20),
        "Priority": ["low", "high"][i % 2],
        "Category": MOODS[i % 3],
    }


def labeled(i: int) -> Record:
    return {"text": text(i), "label": MOODS[i % 3]}


def conll(mark: str, *between: str, tags: Sequence[str] = ("B-LOC", *["O"] * 8)) -> str:
    """Return sentences of words with tags, with further fields between them."""
    return "\n".join(
        "".join(
            f"{mark.join((w, *between, t))}\n" for w, t in zip(text(i).split(), tags, strict=True)
        )
        for i in range(ROWS)
    )


def snips(i: int) -> Record:
    return {"data": [{"text": f"Add {text(i, 3)} to "}, {"text": text(i, 2), "entity": "playlist"}]}


# fmt: off
KINDS = [
    # --- intents and tickets
    Kind("banking77", {"train.csv": table(lambda i: {"text": text(i), "category": "card_arrival"})}, "input=text,output=category", 'card_arrival'),
    Kind("clinc", {"data_full.json": as_json({s: [[text(i + k), INTENTS[i % 3]] for i in range(ROWS)] for k, s in enumerate(("val", "train", "oos_val"))})}, "input=column_1,output=column_2", 'card_arrival'),
    Kind("atis iob", {"atis.train.w-intent.iob": lines(lambda i: f"BOS {text(i)} EOS\tO {'O ' * 8}" f"B-city_name atis_{INTENTS[i % 3]}")}, "input=column_1,output=column_2", 'O O O O O O O O O B-city_name atis_card_arrival'),
    Kind("atis csv", {"atis_intents.csv": lines(lambda i: f"atis_{INTENTS[i % 3]}, {text(i)}")}, "input=column_2,output=column_1", 'atis_card_arrival'),
    Kind("atis rasa json", {"train.json": as_json({"rasa_nlu_data": {"common_examples": [ {"text": text(i), "intent": INTENTS[i % 3], "entities": []} for i in range(ROWS)], "regex_features": []}})}, "input=text,output=intent", 'card_arrival'),
    Kind("atis words", {"atis-2.train.csv": table(lambda i: {"id": i, "tokens": f"BOS {text(i)} EOS", "slots": f"O {'O ' * 8}O", "intent": INTENTS[i % 3]})}, "input=tokens,output=intent", 'card_arrival'),
    Kind("snips", {"train_AddToPlaylist.json": as_json({"AddToPlaylist": [snips(i) for i in range(ROWS)]})}, refused="''.join(piece['text'] for piece in row['data'])"),
    Kind("snips all", {"snips.json": as_json({k: [snips(i) for i in range(ROWS)] for k in ("AddToPlaylist", "PlayMusic")})}, asks=1, refused="''.join(piece['text'] for piece in row['data'])"),
    Kind("snips files", {"seq.in": lines(text), "seq.out": lines(lambda i: "O " * 9), "label": lines(lambda i: INTENTS[i % 3])}, "input=input,output=output", 'O O O O O O O O O ', asks=1),
    Kind("rasa yml", {"nlu.yml": b"version: '3.1'\nnlu:\n- intent: greet\n  examples: |\n    - hello\n    - hi\n- lookup: x\n"}, refused="yaml.safe_load", made=[{"text": "hello", "intent": "greet"}, {"text": "hi", "intent": "greet"}]),
    Kind("faq md", {"faq.md": b"# FAQ\n\n## How?\nSo.\n\n## Why?\nBecause.\n"}, refused="if each heading is a question", made=[{"question": "How?", "answer": "So.\n"}, {"question": "Why?", "answer": "Because.\n"}]),
    Kind("chatito", {"intents.chatito": b"%[greet]('training': '9')\n    ~[hi] you\n\n~[hi]\n    hi\n    hello\n"}, refused="npx chatito"),
    Kind("tickets csv", {"tickets.csv": table(ticket)}, "input=Description,output=Category", 'negative'),
    Kind("tickets xlsx", {"tickets.xlsx": xlsx({"Sheet1": sheet(ticket)})}, "input=Description,output=Category", 'negative'),
    Kind("tickets ods", {"tickets.ods": ods({"Tabelle1": sheet(ticket)})}, "input=Description,output=Category", 'negative'),
    Kind("two sheets", {"tickets.xlsx": xlsx({"Open": sheet(labeled), "Closed": sheet(labeled)})}, "input=text,output=label", 'negative', asks=1),
    Kind("tickets zip", {"tickets.zip": zipped({"export/tickets.csv": table(labeled)})}, "input=text,output=label", 'negative'),
    Kind("tickets csv.gz", {"tickets.csv.gz": gzip.compress(table(labeled))}, "input=text,output=label", 'negative'),
    Kind("sqlite", {"support.sqlite": database(tickets=rows(labeled))}, "input=text,output=label", 'negative'),
    Kind("sqlite two", {"support.db": database(users=rows(lambda i: {"name": text(i, 2), "age": i})[:9], tickets=rows(labeled))}, "input=text,output=label", "negative"),
    Kind("boxes of images", {f"labels/{i}.txt": f"0 0.{i}1 0.52 0.{i}3 0.7\n1 0.4 0.{i} 0.2 0.1\n".encode() for i in range(1, 9)}, refused="text"),
    Kind("words and a file of each", {"pictures.json": as_json(rows(lambda i: {"name": text(i, 2), "image": f"{i}.jpg"}))}, refused="columns"),
    Kind("rasa json", {"demo.json": as_json({"rasa_nlu_data": {"common_examples": rows(labeled), "regex_features": [{"name": "zip", "pattern": "[0-9]{5}"}], "entity_synonyms": []}})}, "input=text,output=label", 'negative'),
    Kind("emails", {"mails.csv": table(lambda i: {"From": f"a{i}@b.c", "Subject": text(i, 3), "Body": text(i, 30), "Folder": MOODS[i % 3]})}, "input=Subject,input=Body,output=Folder", 'negative', asks=1),
    # --- spam, hate, sentiment
    Kind("spam latin-1", {"spam.csv": ("v1,v2,,,\n" + "".join(f'{["ham", "spam"][i % 2]},"{text(i)} £5",,,\n' for i in range(ROWS))).encode("latin-1")}, "input=v2,output=v1", 'ham'),
    Kind("SMSSpamCollection", {"SMSSpamCollection": lines(lambda i: f"{['ham', 'spam'][i % 2]}\t{text(i)}")}, "input=column_2,output=column_1", 'ham'),
    Kind("davidson", {"labeled_data.csv": table(lambda i: {"": i, "count": 3, "hate_speech": 0, "offensive_language": i % 4, "neither": 3 - i % 4, "class": i % 3, "tweet": f"!!! RT @a: {text(i)}"})}, "input=tweet,output=class", '0'),
    Kind("germeval 2018", {"germeval2018.training.txt": lines(lambda i: f"@a {text(i)}\t{['OTHER', 'OFFENSE'][i % 2]}\t{['OTHER', 'INSULT', 'OTHER', 'ABUSE'][i % 4]}")}, "input=column_1,output=column_2", 'OTHER', asks=1),
    Kind("germeval 2017", {"train_v1.4.tsv": lines(lambda i: f"http://x/{i}\t{text(i)}\t{['true', 'false'][i % 2]}\t{MOODS[i % 3]}\t{'Allgemein#Haupt:neutral' if i % 2 else ''}")}, "input=column_2,output=column_3", 'true', asks=1),
    Kind("semeval E-c", {"2018-E-c-En-train.txt": lines(lambda i: f"2017-En-{i}\t{text(i)}\t{i % 2}\t{i // 2 % 2}\t0", "ID\tTweet\tanger\tanticipation\tdisgust\n")}, "input=Tweet,output=anger,output=anticipation,output=disgust", 'none'),
    Kind("semeval EI-reg", {"EI-reg-En-anger-train.txt": lines(lambda i: f"2017-En-{i}\t{text(i)}\tanger\t0.{i + 10}", "ID\tTweet\tAffect Dimension\tIntensity Score\n")}, "input=Tweet,output=Intensity Score", '0.1', asks=1),
    Kind("semeval V-oc", {"2018-Valence-oc-En-train.txt": lines(lambda i: f"2017-En-{i}\t{text(i)}\tvalence\t{i % 3}: {MOODS[i % 3]} mood", "ID\tTweet\tAffect Dimension\tIntensity Class\n")}, "input=Tweet,output=Intensity Class", '0: negative mood'),
    Kind("goemotions", {"train.tsv": lines(lambda i: f"{text(i)}\t{f'{i % 9},{i % 7}' if i % 3 else i % 9}\te{i}x")}, "input=column_1,output=column_2", '0', asks=1),
    Kind("goemotions raw", {"goemotions_1.csv": table(lambda i: {"text": text(i), "id": f"e{i}", "author": f"a{i}", "subreddit": "nfl", "link_id": f"t{i}", "parent_id": f"t{i}", "created_utc": 1548381039.0, "rater_id": i % 9, "example_very_unclear": False, "admiration": i % 2, "amusement": 0, "anger": i % 3 // 2})}, "input=text,output=example_very_unclear,output=admiration,output=amusement,output=anger", 'none'),
    Kind("tweeteval", {"train_text.txt": lines(text), "train_labels.txt": lines(lambda i: f"{i % 3}"), "mapping.txt": b"0\tnegative\n1\tneutral\n2\tpositive\n"}, "output=text", 'Sun snow egg blue one four old small 0.'),
    Kind("airline", {"Tweets.csv": table(lambda i: {"tweet_id": i, "airline_sentiment": MOODS[i % 3], "airline_sentiment_confidence": 0.5 + i / 60, "negativereason": ["", "Late Flight", "Bad Flight"][i % 3], "airline": ["Delta", "United"][i % 2], "name": f"n{i}", "retweet_count": 0, "text": f"@united {text(i)}", "tweet_created": f"2015-02-24 11:{i + 10}:52 -0800"})}, "input=text,output=airline_sentiment", 'negative'),
    Kind("imdb", {"IMDB Dataset.csv": table(lambda i: {"review": f"{text(i, 20)}<br /><br />", "sentiment": ["positive", "negative"][i % 2]})}, "input=review,output=sentiment", 'positive'),
    Kind("imdb folders", {f"aclImdb/train/{m}/{i}_7.txt": text(i + 50 * (m == "neg"), 20).encode() for m in ("pos", "neg") for i in range(12)}, "input=text,output=label", 'neg'),
    Kind("amazon fasttext", {"train.ft.txt": lines(lambda i: f"__label__{i % 2 + 1} {text(i, 3)}: {text(i, 20)}")}, "input=text,output=labels", '1'),
    Kind("amazon polarity", {"train.csv": lines(lambda i: f'"{i % 2 + 1}","{text(i, 3)}","{text(i, 20)}"')}, "input=column_3,output=column_1", '1', asks=1),
    Kind("yelp", {"yelp_academic_dataset_review.json": jsonl(rows(lambda i: {"review_id": f"a{i}", "user_id": f"b{i}", "business_id": f"c{i}", "stars": 1.0 + i % 5, "useful": i % 3, "funny": 0, "cool": 0, "text": text(i, 20), "date": f"2018-07-07 22:{i + 10}:10"}))}, "input=text,output=stars", '1', asks=1),
    Kind("phrasebank", {"Sentences_50Agree.txt": "".join(f"Der Umsatz der Übung {text(i)}@{MOODS[i % 3]}\n" for i in range(ROWS)).encode("latin-1")}, "input=column_1,output=column_2", 'negative'),
    Kind("quoted txt", {"train.txt": lines(lambda i: f'"{text(i)}"\t"{MOODS[i % 3]}"', '"text"\t"label"\n')}, "input=text,output=label", "negative"),
    Kind("sst2", {"train.tsv": lines(lambda i: f"{text(i)}\t{i % 2}", "sentence\tlabel\n")}, "input=sentence,output=label", '0'),
    Kind("sentipolc", {"training_set_sentipolc16.csv": lines(lambda i: f'"{i}","{i % 2}","{i % 3 // 2}","{i % 2}","0","0","1","0","{text(i)}"', '"idtwitter","subj","opos","oneg","iro","lpos","lneg","top","text"\n')}, "input=text,output=subj,output=opos,output=oneg,output=iro,output=lpos,output=lneg,output=top", 'lneg'),
    Kind("vsfc", {"sents.txt": lines(lambda i: f"giáo viên {text(i)}"), "sentiments.txt": lines(lambda i: f"{i % 3}"), "topics.txt": lines(lambda i: f"{i % 2}")}, "output=text", 'giáo viên Sun snow egg blue one four old small 0.'),
    Kind("turkish", {"magaza_yorumlari.csv": ("Görüş,Durum\n" + "".join(f"Ürün çok iyi {text(i)},{['Olumlu', 'Olumsuz'][i % 2]}\n" for i in range(ROWS))).encode("utf-16")}, "input=G\u00f6r\u00fc\u015f,output=Durum", 'Olumlu'),
    Kind("arabic", {"balanced-reviews.txt": ("no\tHotel name\trating\tuser type\troom type\tnights\treview\n" + "".join(f"{i}\tفندق {i}\t{[2, 5][i % 2]}\tزوج\tغرفة\t2\tممتاز النظافة {text(i)}\n" for i in range(ROWS))).encode("utf-16")}, "input=review,output=rating", '2'),
    Kind("hindi", {"train.csv": ("text,label\n" + "".join(f"यह बहुत अच्छा है {i},{['सकारात्मक', 'नकारात्मक'][i % 2]}\n" for i in range(ROWS))).encode()}, "input=text,output=label", 'सकारात्मक'),
    Kind("waimai", {"waimai_10k.csv": ("label,review\n" + "".join(f"{i // 12},很快，好吃，味道足，量大 {i}\n" for i in range(ROWS))).encode()}, "input=review,output=label", '0'),
    Kind("german reviews with words", {"reviews.csv": table(lambda i: {"text": text(i), "target": i % 2, "label_text": ["negativ", "positiv"][i % 2]})}, "input=text,output=label_text", 'negativ'),
    Kind("hatexplain", {"dataset.json": as_json({f"{i}_gab": {"post_id": f"{i}_gab", "annotators": [{"label": MOODS[i % 3], "annotator_id": 1, "target": ["None"]}, {"label": MOODS[i % 3], "annotator_id": 2, "target": ["None"]}], "rationales": [], "post_tokens": text(i).split()} for i in range(ROWS)})}, "input=post_tokens,output=annotators.0.label", 'negative', asks=1),
    Kind("emotions", {"train.txt": lines(lambda i: f"i feel {text(i)};{['joy', 'sadness', 'anger'][i % 3]}")}, "input=column_1,output=column_2", 'joy'),
    # --- topics
    Kind("ag news", {"train.csv": lines(lambda i: f'"{i % 4 + 1}","{text(i, 4)}","{text(i, 20)}"')}, "input=column_3,output=column_1", '1', asks=1),
    Kind("10kGNAD", {"train.csv": lines(lambda i: f"{['Sport', 'Web', 'Wirtschaft'][i % 3]};" + (f"'{text(i, 20)}; so {text(i)}'" if i % 4 == 1 else text(i, 30)))}, "input=column_2,output=column_1", 'Sport'),
    Kind("tnews", {"train.json": jsonl(rows(lambda i: {"label": f"{100 + i % 3}", "label_desc": ["news_car", "news_edu", "news_pet"][i % 3], "sentence": f"新闻 {i} 标题很长", "keywords": "" if i % 2 else f"新闻,{i}"}))}, "input=sentence,output=label_desc", 'news_car', asks=1),
    Kind("toutiao", {"toutiao_cat_data.txt": lines(lambda i: f"65{i}_!_{100 + i % 3}_!_{['news_car', 'news_edu', 'news_pet'][i % 3]}_!_新闻 {i} 标题很长_!_新闻,标题")}, "input=column_4,output=column_3", 'news_car', asks=2),
    Kind("trec", {"train_5500.label": ("".join(f"{['DESC:manner', 'ENTY:cremat'][i % 2]} How did {text(i)} ?\n" for i in range(ROWS)) + "LOC:other What is the café ?\n").encode("latin-1")}, "input=text,output=label", 'DESC:manner', asks=1),
    Kind("20news folder", {f"20news/{g}/{i + 100}": f"From: a@b.c\nSubject: {text(i, 3)}\n\n{text(i, 20)}\n".encode() for g in ("sci.med", "rec.autos") for i in range(8)}, refused="without data files"),
    # --- pairs
    Kind("sts", {"sts-train.csv": lines(lambda i: f"main-captions\tMSRvid\t2012test\t{i:04}\t{i % 5}.{i % 4}00\t{text(i)}\t{QUOTE * (i == 5)}{text(i, 5)}")}, "input=column_6,input=column_7,output=column_5", '0.0', asks=1),
    Kind("stsb csv", {"stsb.csv": table(lambda i: {"sentence1": text(i), "sentence2": text(i, 5), "similarity": f"{i % 5}.5"})}, "input=sentence1,input=sentence2,output=similarity", '0.5'),
    Kind("sts de", {"stsb-de-train.csv": lines(lambda i: f'"{text(i)}","{text(i, 5)}",{i % 5}.{i % 4}')}, "input=column_1,input=column_2,output=column_3", '0.0', asks=1),
    Kind("msr", {"msr_paraphrase_train.txt": "\ufeff".encode() + lines(lambda i: f"{i % 2}\t{i}\t{i + 9}\t{QUOTE * (i == 7)}{text(i)}\t{text(i, 6)}", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n")}, "input=#1 String,input=#2 String,output=Quality", '0'),
    Kind("sick", {"SICK.txt": lines(lambda i: "\t".join((f"{i}", text(i), text(i, 5), ["NEUTRAL", "ENTAILMENT"][i % 2], f"{1 + i % 4}.5", "A_neutral_B", "B_neutral_A", text(i), text(i, 5), "FLICKR", "FLICKR", "TRAIN")), "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\tentailment_AB\tentailment_BA\tsentence_A_original\tsentence_B_original\tsentence_A_dataset\tsentence_B_dataset\tSemEval_set\n")}, "input=sentence_A,input=sentence_B,output=entailment_label", 'NEUTRAL', asks=1),
    Kind("qqp", {"quora_duplicate_questions.tsv": lines(lambda i: f"{i}\t{i}\t{i + 1}\t{text(i)}\t{text(i, 6)}\t{i % 2}", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n")}, "input=question1,input=question2,output=is_duplicate", '0'),
    Kind("paws", {"train.tsv": lines(lambda i: f"{i}\t{text(i)}\t{text(i, 6)}\t{i % 2}", "id\tsentence1\tsentence2\tlabel\n")}, "input=sentence1,input=sentence2,output=label", '0'),
    Kind("lcqmc", {"train.tsv": lines(lambda i: f"喜欢打篮球的男生 {i}\t爱打篮球的男生 {i}\t{i % 2}")}, "input=column_1,input=column_2,output=column_3", '0'),
    Kind("mnli", {"multinli_1.0_train.jsonl": jsonl(rows(lambda i: {"annotator_labels": [MOODS[i % 3]], "genre": "government", "gold_label": MOODS[i % 3], "pairID": f"{i}n", "promptID": f"{i}", "sentence1": text(i), "sentence1_binary_parse": f"( {text(i)} )", "sentence1_parse": f"(ROOT {text(i)})", "sentence2": text(i, 5), "sentence2_binary_parse": f"( {text(i, 5)} )", "sentence2_parse": f"(ROOT {text(i, 5)})"}))}, "input=sentence1,input=sentence2,output=gold_label", 'negative', asks=1),
    Kind("snli txt", {"snli_1.0_train.txt": lines(lambda i: "\t".join((MOODS[i % 3], f"( {text(i)} )", f"( {text(i, 5)} )", f"(ROOT {text(i)})", f"(ROOT {text(i, 5)})", text(i), text(i, 5), f"{i}.jpg#4", f"{i}.jpg#4r1n", MOODS[i % 3])), "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tcaptionID\tpairID\tlabel1\n")}, "input=sentence1,input=sentence2,output=gold_label", 'negative', asks=1),
    Kind("ocnli", {"train.50k.json": jsonl(rows(lambda i: {"level": "medium", "sentence1": f"身上裹一件工厂发的棉大衣 {i}", "sentence2": f"身上至少一件衣服 {i}", "label": MOODS[i % 3], "label0": MOODS[i % 3], "label1": MOODS[i % 3], "genre": ["lit", "tv"][i % 2], "prem_id": f"lit_{i}", "id": i}))}, "input=sentence1,input=sentence2,output=label", 'negative'),
    Kind("xnli tsv", {"xnli.dev.tsv": lines(lambda i: f"de\t{MOODS[i % 3]}\t{text(i)}\t{text(i, 5)}", "language\tgold_label\tsentence1\tsentence2\n")}, "input=sentence1,input=sentence2,output=gold_label", 'negative'),
    Kind("rte superglue", {"train.jsonl": jsonl(rows(lambda i: {"premise": text(i, 20), "hypothesis": text(i, 5), "label": ["entailment", "not_entailment"][i % 2], "idx": i}))}, "input=premise,input=hypothesis,output=label", 'entailment'),
    Kind("cola", {"in_domain_train.tsv": lines(lambda i: f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\t{text(i)}")}, "input=column_4,output=column_2", '0', asks=1),
    Kind("cluewsc", {"train.json": jsonl(rows(lambda i: {"target": {"span2_index": 37, "span1_index": 5, "span1_text": "床", "span2_text": "它"}, "idx": i, "label": ["false", "true"][i % 2], "text": f"这时候放在床上枕头旁边的手机响了，我感到奇怪 {i}"}))}, "input=text,input=target.span1_text,input=target.span2_text,output=label", 'false', asks=1),
    Kind("wsc superglue", {"train.jsonl": jsonl(rows(lambda i: {"text": text(i), "target": {"span2_index": 2, "span1_index": 0, "span1_text": "Sun", "span2_text": "it"}, "idx": i, "label": i % 2 == 0}))}, "input=text,input=target.span1_text,input=target.span2_text,output=label", 'true', asks=1),
    # --- questions
    Kind("squad 1", {"train-v1.1.json": squad(answer)}, "input=context,input=question,output=answers.text", 'Sun snow 0.'),
    Kind("squad 2", {"train-v2.0.json": squad(lambda i: {"is_impossible": i % 3 == 1, **(answer(i) if i % 3 != 1 else {"answers": [], "plausible_answers": answer(i)["answers"]})})}, "input=context,input=question,output=answers.text", 'Sun snow 0.'),
    Kind("squad dev", {"dev-v1.1.json": squad(lambda i: {"answers": [{"text": text(i, k), "answer_start": k} for k in (2, 3, 3)]})}, "input=context,input=question,output=answers.text", 'Sun snow 0.'),
    Kind("xquad", {"xquad.de.json": squad(answer)}, "input=context,input=question,output=answers.text", 'Sun snow 0.'),
    Kind("mlqa zip", {"MLQA_V1.zip": zipped({f"MLQA_V1/{s}/{s}-context-de-question-de.json": squad(answer) for s in ("dev", "test")})}, "input=context,input=question,output=answers.text", 'Sun snow 0.', asks=1),
    Kind("coqa", {"coqa-train-v1.0.json": as_json({"version": "1.0", "data": [{"source": "cnn", "id": f"{i}", "filename": "a.story", "story": text(i, 30), "questions": [{"input_text": text(i), "turn_id": 1}, {"input_text": text(i + 1), "turn_id": 2}], "answers": [{"span_start": 0, "span_text": text(i, 4), "input_text": text(i, 2), "turn_id": 1}, {"span_start": 1, "span_text": text(i, 5), "input_text": text(i, 3), "turn_id": 2}], "name": "a.txt"} for i in range(ROWS)]})}, refused="rows.explode(['questions', 'answers'])"),
    Kind("boolq", {"train.jsonl": jsonl(rows(lambda i: {"question": text(i), "title": text(i, 2), "answer": i % 2 == 0, "passage": text(i, 30)}))}, "input=passage,input=question,output=answer", 'true'),
    Kind("gsm8k", {"train.jsonl": jsonl(rows(lambda i: {"question": text(i, 20), "answer": f"{text(i)}\n#### {i}"}))}, "input=question,output=answer", 'Sun snow egg blue one four old small 0.\n#### 0'),
    Kind("commonsenseqa", {"train_rand_split.jsonl": jsonl(rows(lambda i: {"answerKey": LETTERS[i % 4], "id": f"{i}", "question": {"question_concept": "sun", "choices": [{"label": x, "text": c} for x, c in zip(LETTERS, choices(i), strict=True)], "stem": text(i)}}))}, "input=question.stem,output=answerKey,choices=question.choices", 'Sun snow 0.'),
    Kind("mmlu csv", {"abstract_algebra_dev.csv": lines(lambda i: f'"{text(i)}",{",".join(choices(i))},{LETTERS[i % 4]}')}, "input=column_1,output=column_6,choices=column_2,choices=column_3,choices=column_4,choices=column_5", 'Sun snow 0.', asks=1),
    Kind("race", {"1.txt": jsonl([{"answers": ["A", "C"], "options": [choices(0), choices(1)], "questions": [text(0), text(1)], "article": LONG, "id": "high1.txt"}])}, refused="rows.explode("),
    Kind("logiqa", {"Train.txt": lines(lambda i: "\n".join(("", "abcd"[i % 4], text(i, 20), text(i), *(f"{x}.{c}" for x, c in zip(LETTERS, choices(i), strict=True)))))}, "input=column_2,input=column_3,output=column_1,choices=column_4,choices=column_5,choices=column_6,choices=column_7", 'A.Sun snow 0.', asks=2),
    Kind("bbq", {"Age.jsonl": jsonl(rows(lambda i: {"example_id": i, "question_index": "1", "question_polarity": ["neg", "nonneg"][i % 2], "context_condition": ["ambig", "disambig"][i // 2 % 2], "category": "Age", "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "nonOld"], "ans2": ["c", "unknown"]}, "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"], "version": "a", "source": "https://x"}, "context": text(i, 12), "question": text(i), "ans0": text(i, 2), "ans1": text(i + 1, 2), "ans2": "Unknown", "label": i % 3}))}, "input=context,input=question,output=label,choices=ans0,choices=ans1,choices=ans2", 'Sun snow 0.'),
    Kind("webquestions", {"webquestions.examples.train.json": as_json(rows(lambda i: {"url": f"http://www.freebase.com/view/en/{i}", "targetValue": f'(list (description "{text(i, 2)}") (description "{text(i, 3)}"))', "utterance": text(i)}))}, "input=utterance,output=targetValue", '(list (description "Sun snow 0.") (description "Sun snow egg 0."))', asks=1),
    Kind("web_questions", {"train.jsonl": jsonl(rows(lambda i: {"url": f"http://x/{i}", "question": text(i), "answers": [text(i, 2), text(i, 3)]}))}, "input=question,output=answers", 'Sun snow 0.'),
    Kind("cornell", {"movie_lines.txt": lines(lambda i: f"L{i} +++$+++ u{i % 3} +++$+++ m0 +++$+++ ANN +++$+++ {text(i)}")}, "input=column_5,output=column_2", 'u0', asks=2),
    Kind("faq md", {"FAQ.md": b"# FAQ\n\n## How do I pay?\nBy card.\n\n## Where is it?\nHere.\n"}, refused="if each heading is a question"),
    Kind("faq csv", {"faq.csv": table(lambda i: {"Frage": f"{text(i)[:-1]}?", "Antwort": text(i, 20)})}, "input=Frage,output=Antwort", 'Sun snow egg blue one four old small wind milk red grey thr'),
    Kind("counsel chat", {"20200325_counsel_chat.csv": table(lambda i: {"": i, "questionID": i, "questionTitle": text(i, 3), "questionText": text(i, 20), "questionLink": f"https://x/{i}", "topic": MOODS[i % 3], "therapistInfo": "Ann LMFT", "therapistURL": f"https://y/{i}", "answerText": text(i, 30), "upvotes": i, "views": 300 + i, "split": "train"})}, "input=questionText,output=answerText", 'Sun snow egg blue one four old small wind milk red grey thr'),
    # --- text to text
    Kind("jfleg", {"dev.src": lines(text), **{f"dev.ref{k}": lines(partial(text, length=9 + k)) for k in range(4)}, "dev.spellchecked.src": lines(lambda i: text(i, 8))}, "input=input,output=ref1,output=ref2,output=ref3,output=ref4", 'Sun snow egg blue one four old small wind 0.', asks=1),
    Kind("m2", {"official.m2": lines(lambda i: f"S {text(i)}\nA 1 2|||Verb|||go|||REQUIRED|||-NONE-|||0\n")}, refused="corr_from_m2.py"),
    Kind("refs csv", {"gec.csv": table(lambda i: {"source": text(i), **{f"ref{k}": text(i, 4 + k) for k in range(1, 5)}})}, "input=source,output=ref1,output=ref2,output=ref3,output=ref4", 'Sun snow egg blue one 0.'),
    Kind("asset", {"asset.valid.orig": lines(text), **{f"asset.valid.simp.{k}": lines(partial(text, length=4 + k)) for k in range(10)}, "asset.test.orig": lines(text, count=9)}, "input=input,output=ref1,output=ref10,output=ref2,output=ref3,output=ref4,output=ref5,output=ref6,output=ref7,output=ref8,output=ref9", 'Sun snow egg blue 0.', asks=1),
    Kind("wikisplit", {"train.tsv": lines(lambda i: f"{text(i, 14)}\t{text(i, 7)} <::::> {text(i, 6)}")}, "input=column_1,output=column_2", 'Sun snow egg blue one four old 0. <::::> Sun snow egg blue one four 0.', asks=1),
    Kind("e2e", {"trainset.csv": lines(lambda i: f'"name[Inn {i // 4}], food[{INTENTS[i % 3]}]",{text(i, 9)}', "mr,ref\n")}, "input=mr,output=ref", 'Sun snow egg blue one four old small wind 0.'),
    Kind("disfl-qa", {"train.json": as_json({f"5a{i}": {"original": text(i), "disfluent": f"{text(i, 3)} no, {text(i)}"} for i in range(ROWS)})}, "input=disfluent,output=original", 'Sun snow egg blue one four old small 0.'),
    Kind("dialogsum", {"dialogsum.train.jsonl": jsonl(rows(lambda i: {"fname": f"train_{i}", "dialogue": f"#Person1#: {text(i)}\n#Person2#: {text(i, 5)}", "summary": text(i, 5), "topic": text(i, 2)}))}, "input=dialogue,output=summary", 'Sun snow egg blue one 0.'),
    Kind("dialogsum test", {"dialogsum.test.jsonl": jsonl(rows(lambda i: {"fname": f"test_{i}", "dialogue": f"#Person1#: {text(i)}\n#Person2#: {text(i, 5)}", "summary1": text(i, 5), "topic1": text(i, 2), "summary2": text(i, 6), "topic2": text(i, 3), "summary3": text(i, 7), "topic3": text(i, 4)}))}, "input=dialogue,output=summary1,output=summary2,output=summary3", 'Sun snow egg blue one 0.'),
    Kind("samsum", {"train.json": as_json(rows(lambda i: {"id": f"{i}", "summary": text(i, 5), "dialogue": f"Ann: {text(i)}\r\nBob: {text(i, 5)}"}))}, "input=dialogue,output=summary", 'Sun snow egg blue one 0.'),
    Kind("moses", {"train.de": lines(text), "train.en": lines(lambda i: text(i, 9))}, "input=input,output=output", 'Sun snow egg blue one four old small wind 0.', asks=1),
    Kind("manythings", {"deu.txt": lines(lambda i: f"{text(i, 4)}\t{text(i, 5)}\tCC-BY 2.0 (France) Attribution: tatoeba.org #{i} (CM) & #{i + 9} (Roujin)")}, refused="input=COLUMN,output=COLUMN"),
    Kind("tatoeba", {"links.tsv": lines(lambda i: f"{i}\t{text(i)}\t{i + 900}\t{text(i, 5)}")}, "input=column_2,output=column_4", 'Sun snow egg blue one 0.', asks=1),
    Kind("tmx", {"memory.tmx": b'<?xml version="1.0"?><tmx version="1.4"><header srclang="en"/><body><tu><tuv xml:lang="en"><seg>Hi <b>you</b></seg></tuv><tuv xml:lang="de"><seg>Hallo</seg></tuv></tu></body></tmx>'}, refused="xml.etree.ElementTree", made=[["Hi you", "Hallo"]]),
    # --- code
    Kind("humaneval", {"HumanEval.jsonl.gz": gzip.compress(jsonl(rows(lambda i: {"task_id": f"HumanEval/{i}", "prompt": f"def f{i}(x):\n", "entry_point": f"f{i}", "canonical_solution": f"    return x + {i}\n", "test": f"assert f{i}(0) == {i}"})))}, "input=prompt,output=canonical_solution", '    return x + 0\n'),
    Kind("mbpp", {"mbpp.jsonl": jsonl(rows(lambda i: {"text": text(i), "code": f"def f{i}():\r\n  return {i}", "task_id": i, "test_setup_code": "", "test_list": [f"assert f{i}() == {i}"], "challenge_test_list": []}))}, "input=text,output=code", 'def f0():\r\n  return 0'),
    Kind("spider", {"train_spider.json": as_json(rows(lambda i: {"db_id": "d", "query": f"SELECT {i} FROM t", "query_toks": ["SELECT", f"{i}"], "query_toks_no_value": ["select", "value"], "question": text(i), "question_toks": text(i).split(), "sql": {"from": {"table_units": [["table_unit", 1]], "conds": []}, "limit": None}}))}, "input=question,output=query", 'SELECT 0 FROM t'),
    Kind("wikisql", {"train.jsonl": jsonl(rows(lambda i: {"phase": 1, "table_id": f"1-{i}", "question": text(i), "sql": {"sel": 5, "conds": [[3, 0, f"x {i}"]], "agg": 0}}))}, "input=question", '', asks=1),
    Kind("nl2bash", {"all.nl": lines(text), "all.cm": lines(lambda i: f"find . -name '{i}'")}, "input=input,output=output", "find . -name '0'", asks=1),
    Kind("conala", {"conala-train.json": as_json(rows(lambda i: {"intent": text(i), "rewritten_intent": text(i, 9) if i % 3 else None, "snippet": f"f({i})", "question_id": i}))}, "input=intent,output=snippet", 'f(0)', asks=1),
    # --- chats and preferences
    Kind("hh-rlhf", {"train.jsonl.gz": gzip.compress(jsonl(rows(lambda i: {"chosen": f"\n\nHuman: {text(i)}\n\nAssistant: {text(i, 4)}", "rejected": f"\n\nHuman: {text(i)}\n\nAssistant: {text(i, 5)}"})))}, "messages=chosen", 'Sun snow egg blue 0.'),
    Kind("dpo", {"dpo.jsonl": jsonl(rows(lambda i: {"prompt": text(i), "chosen": text(i, 4), "rejected": text(i, 5)}))}, "input=prompt,output=chosen", 'Sun snow egg blue 0.'),
    Kind("mt-bench", {"question.jsonl": jsonl(rows(lambda i: {"question_id": i, "category": ["writing", "math"][i // 12], "turns": [text(i), text(i, 5)], **({"reference": [text(i, 2), text(i, 3)]} if i > 12 else {})}))}, "input=turns,output=category", 'writing', asks=1),
    Kind("messages", {"chats.jsonl": jsonl(rows(lambda i: {"messages": turns(i, 4)}))}, "messages=messages", 'Four small milk grey cold rain salt two 3.'),
    Kind("sharegpt", {"sharegpt.json": as_json(rows(lambda i: {"id": f"{i}", "conversations": turns(i, 2, "from", "value")}))}, "messages=conversations", 'Milk blue two cold small snow salt grey 1.'),
    Kind("alpaca", {"alpaca_data.json": as_json(rows(lambda i: {"instruction": text(i), "input": text(i, 5) if i % 2 == 0 else "", "output": text(i, 3)}))}, "input=input,output=output,instruction=instruction", 'Sun snow egg 0.'),
    Kind("dolly", {"databricks-dolly-15k.jsonl": jsonl(rows(lambda i: {"instruction": text(i), "context": text(i, 9) if i % 2 == 0 else "", "response": text(i, 3), "category": ["open_qa", "closed_qa"][i % 2]}))}, "input=context,output=response,instruction=instruction", 'Sun snow egg 0.'),
    Kind("meld", {"train_sent_emo.csv": table(lambda i: {"Sr No.": i + 1, "Utterance": text(i), "Speaker": ["Joey", "Ross", "Monica"][i % 3], "Emotion": ["joy", "anger", "neutral"][i // 2 % 3], "Sentiment": MOODS[i // 3 % 3], "Dialogue_ID": i // 5, "Utterance_ID": i % 5, "Season": 8, "Episode": 21, "StartTime": f"00:16:{i + 10}", "EndTime": f"00:16:{i + 11}"})}, "input=Utterance,output=Sentiment", 'negative', asks=1),
    Kind("multiwoz", {"data.json": as_json({f"SNG{i}.json": {"goal": {"taxi": {}}, "log": [{"text": text(i + k), "metadata": {}} for k in range(4)]} for i in range(ROWS)})}, refused="''.join(piece['text'] for piece in row['log'])"),
    # --- words with tags
    Kind("conll2003", {"eng.train": ("-DOCSTART- -X- -X- O\n\n" + conll(" ", "NN", "I-NP")).encode()}, "input=tokens,output=tags", 'B-LOC O O O O O O O O'),
    Kind("wnut17", {"wnut17train.conll": conll("\t").replace("\n\n", "\n\t\n").encode()}, "input=tokens,output=tags", 'B-LOC O O O O O O O O'),
    Kind("germeval 2014", {"NER-de-train.tsv": "\n".join("".join((f"#\thttp://x/{i} [2009-10-17]\n", *(f"{k}\t{w}\t{'B-LOC' if k == 1 else 'O'}\tO\n" for k, w in enumerate(text(i).split(), 1)))) for i in range(ROWS)).encode()}, "input=tokens,output=tags", 'B-LOC O O O O O O O O'),
    Kind("conllu", {"de_gsd-ud-train.conllu": "\n".join("".join((f"# sent_id = {i}\n# text = {text(i)}\n", *(f"{k}\t{w}\t{w}\t{'NOUN' if k % 2 else 'VERB'}\tN\t_\t0\troot\t_\t_\n" for k, w in enumerate(text(i).split(), 1)))) for i in range(ROWS)).encode()}, "input=tokens,output=tags", 'NOUN VERB NOUN VERB NOUN VERB NOUN VERB NOUN'),
    Kind("ner kaggle", {"ner_dataset.csv": ("Sentence #,Word,POS,Tag\n" + "".join(f"{f'Sentence: {i}' if k == 0 else ''},{w},N,{'B-geo' if k == 0 else 'O'}\n" for i in range(3) for k, w in enumerate(text(i).split()))).encode()}, "input=Word,output=Tag", 'B-geo', asks=1),
    # --- surveys and others
    Kind("survey forms", {"Responses.csv": lines(lambda i: f'2024/01/{i + 1:02} 10:00:00 AM MEZ,{i % 5 + 1},{["Yes", "No"][i % 2]},"{text(i, 12)}","{text(i + 3, 9) if i % 3 else ""}"', "Timestamp,How satisfied are you with our service?,Would you recommend us?,What did you like?,What could we improve?\n")}, "input=What did you like?,output=Would you recommend us?", 'Yes', asks=1),
    Kind("survey stackoverflow", {"survey_results_public.csv": table(lambda i: {"ResponseId": i, "MainBranch": ["I am a developer", "I code as a hobby"][i % 2], "Age": ["18-24 years old", "25-34 years old"][i // 2 % 2], "RemoteWork": ["Remote", "Hybrid", "NA"][i % 3], "EdLevel": ["Bachelor", "Master"][i // 3 % 2], "Country": ["Germany", "India", "Italy"][i % 3], "JobSat": i % 10})}, refused="input=COLUMN,output=COLUMN"),
    Kind("survey comments", {"survey.csv": table(lambda i: {"respondent": f"r{i}", "department": ["IT", "HR", "Sales"][i % 3], "q1_comment": text(i, 12), "q2_comment": text(i + 1, 9), "nps": i % 11})}, "input=q1_comment,output=department", 'IT', asks=1),
    Kind("job ads", {"jobs.csv": table(lambda i: {"title": text(i, 3), "company": ["A GmbH", "B AG"][i % 2], "location": ["Berlin", "Wien", "Bern"][i % 3], "description": text(i, 30), "salary": 30000 + i})}, "input=title,input=description,output=company", 'A GmbH', asks=1),
    Kind("movie genres", {"movies.csv": table(lambda i: {"movieId": i, "title": text(i, 3), "overview": text(i, 20), "genres": ["Action|Drama", "Drama", "Comedy|Drama", "Action"][i % 4]})}, "input=overview,output=genres", 'Action, Drama', asks=1),
    Kind("recipes", {"recipes.json": as_json(rows(lambda i: {"id": i, "cuisine": ["greek", "indian"][i % 2], "ingredients": ["salt", "egg", f"{text(i, 2)}"]}))}, "input=ingredients,output=cuisine", 'greek'),
    Kind("folder of xlsx", {"folder/a.xlsx": xlsx({"S": sheet(labeled)}), "folder/notes.docx": b"PK"}, "input=text,output=label", 'negative'),
    Kind("folder of sqlite", {"folder/a.sqlite": database(t=rows(labeled))}, "input=text,output=label", 'negative'),
    Kind("folder of jsonlines", {"folder/train.jsonlines": jsonl(rows(labeled))}, "input=text,output=label", 'negative'),
    Kind("jsonlines", {"train.jsonlines": jsonl(rows(labeled))}, "input=text,output=label", 'negative'),
    Kind("folder of zip", {"folder/train.zip": zipped({"train.csv": table(labeled)})}, "input=text,output=label", 'negative'),
    Kind("folder of gz", {"folder/train.csv.gz": gzip.compress(table(labeled))}, "input=text,output=label", 'negative'),
    Kind("folder of txt tables", {"folder/train.txt": lines(lambda i: f"{text(i)}\t{MOODS[i % 3]}")}, "input=column_1,output=column_2", 'negative'),
    Kind("folder of iob", {"folder/train.iob": lines(lambda i: f"BOS {text(i)} EOS\tO {'O ' * 8}{INTENTS[i % 3]}")}, "input=column_1,output=column_2", 'O O O O O O O O O card_arrival'),
    Kind("folder with train and test tables", {f"folder/{s}.txt": lines(lambda i: f"{i}\t{text(i)}\t{MOODS[i % 3]}", "id\ttext\tlabel\n") for s in ("train", "test")}, "input=text,output=label", 'negative'),
    Kind("sources and targets", {f"folder/{side}-{part}.txt": lines(partial(text, length=length), count=count) for side, length in (("src", 9), ("tgt", 7)) for part, count in (("train", 30), ("val", 12))}, "input=src,output=tgt", "Sun snow egg blue one"),
    Kind("texts and their labels", {"folder/train_text.txt": lines(text), "folder/train_labels.txt": lines(lambda i: f"{i % 3}"), "folder/mapping.txt": b"0\tbad\n1\tgood\n2\tfair\n"}, "input=text,output=labels", "0"),
    Kind("original and simplified", {"folder/a.test.orig": lines(text), **{f"folder/a.test.simp.{k}": lines(partial(text, length=6 + k)) for k in range(3)}}, "input=original,output=simplification_0,output=simplification_1,output=simplification_2", "Sun"),
    Kind("as many good as bad", {"folder/rt.pos": lines(text), "folder/rt.neg": lines(lambda i: text(i, 7))}, refused="label"),
    Kind("folder of parallel", {"folder/all.cm": lines(lambda i: f"ls {i}"), "folder/all.nl": lines(text)}, "input=input,output=output", "Sun snow", asks=1),
    Kind("orc", {"rows.orc": b"ORC\n\x01\0\0"}, refused="save it as CSV or JSON lines"),
    Kind("xml absa", {"Restaurants_Train.xml": b"<sentences><sentence id='1'><text>Good food</text></sentence></sentences>"}, refused="pandas.read_xml("),
    # --- CSV files that are not what their names or first lines say
    Kind("decimal commas", {"rows.csv": table(lambda i: {"text": text(i), "label": ["4,5", "3", "5"][i % 3]}, ";")}, "input=text,output=label", "4.5"),
    Kind("thousands", {"rows.csv": table(lambda i: {"text": text(i), "label": ["1,500", "900"][i % 2]}, ";")}, "input=text,output=label", "1,500"),
    Kind("labels with commas", {"rows.csv": table(lambda i: {"text": text(i), "labels": ["1,2", "3", "2,3"][i % 3]}, ";")}, "input=text,output=labels", "1, 2"),
    Kind("codes of rows", {"rows.csv": table(lambda i: {"code": f"{i:04}", "text": text(i)})}, "output=text", "Sun"),
    Kind("codes", {"rows.csv": table(lambda i: {"text": text(i), "label": ["007", "12", "042"][i % 3]})}, "input=text,output=label", "007"),
    Kind("tsv with commas", {"rows.tsv": table(labeled)}, "input=text,output=label", "negative"),
    Kind("tsv of one column", {"rows.tsv": lines(lambda i: f"{text(i)}, so", "text\n")}, "output=text", "Sun snow egg blue one four old small 0., so"),
    Kind("csv with carets", {"rows.csv": table(labeled, "^")}, "input=text,output=label", "negative"),
    Kind("csv with colons", {"rows.csv": table(labeled, ":")}, "input=text,output=label", "negative"),
    Kind("csv of one column", {"rows.csv": lines(lambda i: f"https://a.b/{text(i)}")}, "output=column_1", "https://a.b/Sun"),
    Kind("csv with spaces", {"rows.csv": lines(lambda i: f"{text(i)}, so | {MOODS[i % 3]}", "text | label\n")}, "input=text,output=label", "negative"),
    Kind("sep=;", {"rows.csv": b"sep=;\r\n" + table(labeled, ";")}, "input=text,output=label", "negative"),
    Kind("csv below a comment", {"rows.csv": b"# of the support team\n# 2024\n" + table(labeled)}, "input=text,output=label", "negative"),
    Kind("header with #", {"rows.csv": lines(lambda i: f"{text(i)}, so;{MOODS[i % 3]}", "#text;label\n")}, "input=#text,output=label", "negative"),
    Kind("comment in one of two files", {"folder/train-0.csv": b"# 2024\n" + table(labeled), "folder/train-1.csv": table(labeled)}, refused="remove these lines"),
    Kind("comment in the second of two files", {"folder/train-0.csv": table(labeled), "folder/train-1.csv": b"# 2024\n" + table(labeled)}, refused="remove these lines"),
    Kind("one column with a colon", {"rows.csv": lines(lambda i: f"Agent:{text(i)}", "Caller:hello there\n")}, "output=Caller:hello there", "Agent:Sun"),
    Kind("colored text", {"rows.txt": lines(lambda i: f"\033[1m{text(i)}")}, "output=text", "\033[1mSun"),
    # --- other forms of rows
    Kind("json lists below names", {"rows.json": as_json([["text", "label"], *([text(i), MOODS[i % 3]] for i in range(ROWS))])}, "input=text,output=label", "negative"),
    Kind("json columns of several lengths", {"rows.json": as_json({"text": [text(i) for i in range(5)], "label": MOODS})}, refused="text has 5, label has 3"),
    Kind("json texts by labels", {"rows.json": as_json({"good": ["So good"], "bad": ["So bad", "Not so"]})}, refused="if the keys are labels", made=[{"text": "So good", "label": "good"}, {"text": "So bad", "label": "bad"}, {"text": "Not so", "label": "bad"}]),
    Kind("empty json object", {"rows.json": b"{}"}, refused="has no rows"),
    Kind("utf-16 without a mark", {"rows.csv": table(labeled).decode().encode("utf-16-le")}, "input=text,output=label", "negative"),
    Kind("utf-16 json without a mark", {"rows.jsonl": jsonl(rows(labeled)).decode().encode("utf-16-be")}, "input=text,output=label", "negative"),
    Kind("zip of folders", {"rows.zip": zipped({f"rows/{s}/data.csv": table(labeled) for s in ("test", "train")})}, "input=text,output=label", "negative"),
    Kind("zip of folders of files", {"rows.zip": zipped({f"{s}/{n}.csv": table(labeled) for s in ("test", "train") for n in "ab"})}, refused="unpack it, and name the folder"),
    Kind("merged header", {"rows.xlsx": xlsx({"A": [("Mail", "", "Class"), ("text", "lang", "label"), *((text(i), "en", MOODS[i % 3]) for i in range(ROWS))]}, merged="A1:B1")}, "input=text,output=label", "negative"),
    Kind("merged title", {"rows.xlsx": xlsx({"A": [("Mails", ""), ("text", "label", ""), *((text(i), MOODS[i % 3], "so") for i in range(ROWS))]}, merged="A1:B1")}, "input=text,output=label", "negative"),
    Kind("parquet decimals", {"rows.parquet": parquet(text=[text(i) for i in range(ROWS)], score=[Decimal(f"{i % 4}.50") for i in range(ROWS)])}, "input=text,output=score", "0.5"),
    Kind("parquet map", {"rows.parquet": parquet(text=[LONG], more=pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())))}, refused="no column of the type map"),
    # --- those that fresh eyes tried
    Kind("10kGNAD first label once", {"train.csv": lines(lambda i: f"{['Etat', 'Web', 'Sport'][min(i, 1) + i % 2 if i != 9 else 0]};{text(i, 30)}{', so' * (i % 3)}")}, "input=column_2,output=column_1", "Etat"),
    Kind("trec txt", {"train_5500.txt": lines(lambda i: f"{['NUM:dist', 'DESC:def', 'HUM:ind'][i % 3]} How far is {text(i)} ?")}, "input=text,output=label", "NUM:dist", asks=1),
    Kind("labels first txt", {"train.txt": lines(lambda i: f"{['ham', 'spam'][i % 2]} {text(i)}")}, "output=text", "ham Sun"),
    Kind("babi", {"qa1_train.txt": lines(lambda i: f"1 John went {text(i)}\n2 Mary went {text(i, 3)}\n3 Where is John? \thallway\t1\n4 Ann went {text(i, 2)}\n5 Where is Mary? \tkitchen\t2", count=12)}, "input=input,output=output", "hallway", asks=1),
    Kind("personachat", {"train_self_original.txt": lines(lambda i: f"1 your persona: i like {text(i)}\n2 your persona: i have {text(i, 3)}\n3 hi , how are you ?\ti am {text(i, 2)}\t\ta|b|c\n4 what is it ?\tmy {text(i, 3)}\t\ta|b|c", count=12)}, "input=input,output=output", "i am Sun snow 0.", asks=1),
    Kind("dailydialog", {"dialogues_text.txt": lines(lambda i: " __eou__ ".join([text(i + k, 5) for k in range(2 + i % 3)]) + " __eou__")}, "input=input,output=output", "Milk blue two", asks=1),
    Kind("pubtator", {"CDR_TrainingSet.PubTator.txt": lines(lambda i: f"{i + 227508}|t|{text(i)}\n{i + 227508}|a|{text(i, 30)}\n{i + 227508}\t0\t3\tSun\tChemical\tD009270\n{i + 227508}\t9\t12\tegg\tDisease\tD003000\n")}, refused="tabs"),
    Kind("intents json", {"intents.json": as_json({"intents": [{"tag": f"tag{i}", "patterns": [text(4 * i + k, 3) for k in range(4)], "responses": [text(i, 5), text(i, 6)], "context": [""]} for i in range(9)] + [{"tag": "noanswer", "patterns": [], "responses": [LONG]}]})}, "input=patterns,output=responses", "Sun snow egg blue one 0.", asks=1),
    Kind("race exploded", {"rows.jsonl": jsonl(rows(lambda i: {"answers": "ABCD"[i % 4], "options": choices(i), "questions": text(i), "article": f"{LONG} {i // 4}", "id": f"high{i // 4}.txt"}))}, "input=article,input=questions,output=answers,choices=options", "Sun snow 0."),
    Kind("coqa exploded", {"rows.jsonl": jsonl(rows(lambda i: {"source": "cnn", "id": f"{i // 2}", "filename": "a.story", "story": f"{LONG} {i // 2}", "questions": {"input_text": text(i), "turn_id": i % 2}, "answers": {"span_start": 0, "span_end": 9, "span_text": text(i, 4), "input_text": text(i, 2), "turn_id": i % 2, "bad_turn": "false"}, "name": "a.txt"}))}, "input=story,input=questions.input_text,output=answers.input_text", "Sun snow 0."),
    Kind("qald", {"qald_9_train.json": as_json({"dataset": {"id": "qald-9"}, "questions": [{"id": f"{i}", "answertype": "resource", "aggregation": False, "question": [{"language": "en", "string": text(i), "keywords": "sun, snow"}, {"language": "de", "string": text(i, 9), "keywords": "sonne"}], "query": {"sparql": f"SELECT ?x{i} WHERE {{ ?x a b }}"}, "answers": [{"head": {"vars": ["x"]}, "results": {"bindings": [{"x": {"type": "uri", "value": f"http://x/{i}"}}]}}]} for i in range(ROWS)]})}, refused="question.0.string"),
    Kind("doccano", {"admin.jsonl": jsonl(rows(lambda i: {"id": i, "text": text(i), "label": [[0, 3, "PER"], [4, 8, "LOC"]], "Comments": []}))}, refused="for start, end, label in row['label"),
    Kind("doccano old", {"admin.json1": jsonl(rows(lambda i: {"id": i, "text": text(i), "meta": {}, "annotation_approver": None, "labels": [[0, 3, "PER"]]}))}, refused="for start, end, label in row['label"),
    Kind("allennlp", {"sentences.tsv": lines(lambda i: "\t".join(f"{w}###{'N' if k % 2 else 'V'}" for k, w in enumerate(text(i, 5 + i % 3).split())))}, "input=tokens,output=tags", "V N V N V N", asks=1),
    Kind("brown", {"ca01.txt": lines(lambda i: " ".join(f"{w}/{'nn' if k % 2 else 'vb'}" for k, w in enumerate(text(i, 5 + i % 3).split())))}, "input=tokens,output=tags", "vb nn vb nn vb nn", asks=1),
    Kind("ted", {"all_talks_train.tsv": table(lambda i: {"talk_name": f"talk_{i // 9}", "ar": f"نص {text(i)}", "de": f"der {text(i)}", "en": f"the {text(i)}", "pt-br": f"o {text(i)}", "fr-ca": "__NULL__" if i % 3 else text(i, 7)}, "\t")}, refused="input=COLUMN,output=COLUMN"),
    Kind("polarity", {"rt-polaritydata/rt-polarity.pos": lines(text, count=12), "rt-polaritydata/rt-polarity.neg": lines(lambda i: text(i + 30), count=12)}, "input=text,output=label", "pos", asks=1),
    Kind("polarity file", {"rt-polarity.pos": lines(text, count=12), "rt-polarity.neg": lines(lambda i: text(i + 30), count=12)}, "input=text,output=label", "pos", asks=1),
    Kind("fake news", {"Fake.csv": table(lambda i: {"title": text(i, 6), "text": text(i, 40), "subject": "News", "date": "December 31, 2017"})}, refused="input=COLUMN,output=COLUMN"),
    Kind("fake news subjects", {"Fake.csv": table(lambda i: {"title": text(i, 6), "text": text(i, 40), "subject": ["News", "politics"][i // 12], "date": "December 31, 2017"})}, refused="input=COLUMN,output=COLUMN"),
    Kind("oasst", {"oasst.jsonl": jsonl(rows(lambda i: {"message_id": f"m{i}", "parent_id": f"m{i - 1}" if i % 3 else None, "user_id": f"u{i}", "created_date": "2023-02-05T14:23:50", "text": text(i), "role": ["prompter", "assistant", "prompter"][i % 3], "lang": "en", "review_count": 3, "deleted": False, "rank": None if i % 3 != 1 else i % 2, "synthetic": False, "message_tree_id": f"m{i // 3 * 3}", "tree_state": "ready_for_export"}))}, refused="rows.merge(rows, left_on='parent_id', right_on='message_id'"),
    Kind("tsv of one headless column", {"rows.tsv": lines(lambda i: f"The {text(i)} is old, and the other is not.")}, "output=column_1", "The Sun"),
    Kind("labels with commas in a column of a label", {"rows.csv": table(lambda i: {"text": text(i), "topic": ["1,2", "3", "2", "2,3"][i % 4]}, ";")}, "input=text,output=topic", "1, 2"),
    # --- rows that hold lists of rows
    Kind("questions of a text", {"train.json": as_json(rows(lambda i: {"context": text(i, 30), "qas": [{"id": f"{i}-{k}", "question": text(3 * i + k), "answer": text(3 * i + k, 2)} for k in range(3)]}))}, "input=context,input=qas[].question,output=qas[].answer", "Sun snow 0."),
    Kind("pairs of a title", {"train.jsonl": jsonl(rows(lambda i: {"topic": f"t{i}", "pairs": [{"query": text(2 * i + k), "label": MOODS[(i + k) % 3]} for k in range(2)]}))}, "input=pairs[].query,output=pairs[].label", "negative"),
    Kind("named after languages", {"train.csv": table(lambda i: {"English": text(i), "Darija": text(i, 8)})}, "input=English,output=Darija", "Sun snow egg blue one four old small 0.", asks=1),
    # --- exports of tools
    Kind("qualtrics", {"survey.csv": lines(lambda i: f'2024-03-01 10:{i + 10}:00,{60 + i},100,R_{i},{MOODS[i % 3]},"{text(i)}"', 'StartDate,Duration,Progress,ResponseId,Q1,Q2\nStart Date,Duration (in seconds),Progress,Response ID,How are you?,"Why,\n\nin a few words?"\n' + ",".join(f'"{{""ImportId"":""{n}""}}"' for n in ("startDate", "duration", "progress", "_recordId", "QID1", "QID2_TEXT")) + "\n")}, "input=Q2,output=Q1", "negative", asks=1),
    Kind("surveymonkey", {"survey.csv": lines(lambda i: f'114{i},380,03/01/2024 10:{i + 10}:00 AM,,{MOODS[i % 3]},"{text(i)}"', "Respondent ID,Collector ID,Start Date,Email Address,How are you?,Why?\n,,,,Response,Open-Ended Response\n")}, "input=Why?,output=How are you?", "negative"),
    Kind("surveys with other headers", {"folder/train-0.csv": lines(lambda i: f"{i},{i},{text(i)},so", "id,n,text,label\n,,Why?,How?\n"), "folder/train-1.csv": lines(lambda i: f"{i},{i},{text(i)},so", "id,n,text,label\n")}, refused="remove all but the first"),
    Kind("label studio", {"project-7.json": as_json(rows(lambda i: {"id": i, "annotations": [{"id": i, "completed_by": 1, "result": [{"value": {"choices": [MOODS[i % 3]]}, "from_name": "sentiment", "to_name": "text", "type": "choices"}], "was_cancelled": False, "ground_truth": False, "result_count": 1}], "drafts": [], "data": {"text": text(i)}, "meta": {}, "updated_at": "2024-03-01T10:00:01.123456Z", "allow_skip": True, "total_annotations": 1, "cancelled_annotations": 0, "comment_count": 0, "project": 7}))}, "input=data.text,output=annotations.0.result.0.value.choices", "negative", asks=1),
    Kind("argilla", {"records.json": as_json(rows(lambda i: {"id": f"a{i}", "status": "completed", "_server_id": f"b{i}", "fields": {"text": text(i)}, "metadata": {}, "suggestions": {}, "responses": {"label": [{"value": MOODS[i % 3], "user_id": "u"}]}, "vectors": {}}))}, "input=fields.text,output=responses.label.0.value", "negative", asks=1),
    Kind("spacy cats", {"rows.jsonl": jsonl(rows(lambda i: {"text": text(i), "cats": {m: float(m == MOODS[i % 3]) for m in MOODS}}))}, "input=text,output=cats.negative,output=cats.neutral,output=cats.positive", "negative"),
    Kind("spacy tuples", {"rows.jsonl": as_json([[text(i), {"cats": {m: m == INTENTS[i % 3] for m in INTENTS}}] for i in range(ROWS)])}, "input=column_1,output=column_2.cats.card_arrival,output=column_2.cats.lost_card,output=column_2.cats.top_up", "card_arrival", asks=1),
    Kind("prodigy yes or no", {"rows.jsonl": jsonl(rows(lambda i: {"text": text(i), "label": "SPAM", "_input_hash": i, "_task_hash": -i, "answer": ["accept", "reject"][i % 2], "_timestamp": 17 + i}))}, "input=text,output=answer", "accept", asks=1),
    Kind("prodigy spans", {"rows.jsonl": jsonl(rows(lambda i: {"text": text(i), "_input_hash": i, "tokens": [{"text": w, "id": k} for k, w in enumerate(text(i).split())], "spans": [{"start": 0, "end": 3, "label": "ORG", "token_start": 0}], "answer": "accept"}))}, refused="for span in row['spans'])"),
    Kind("prodigy choices", {"rows.jsonl": jsonl(rows(lambda i: {"text": text(i), "options": [{"id": m, "text": m.title()} for m in MOODS], "_view_id": "choice", "accept": [MOODS[i % 3]], "answer": ["reject", "accept"][i % 2]}))}, "input=text,output=accept,choices=options", "Neutral"),
    Kind("answers of many forms", {"rows.jsonl": jsonl(rows(lambda i: {"text": text(i), "label": MOODS[i % 3], "answer": ["accept", {"x": i}, [i]][i % 3]}))}, "input=text,output=label", "negative", asks=1),
    Kind("in order of labels", {"rows.csv": table(lambda i: {"id": i, "text": text(i), "label": MOODS[i // ROWS], "product_category": INTENTS[i % 3]})}, "input=text,output=label", "negative"),
    Kind("in order of topics", {"rows.csv": table(lambda i: {"id": i, "text": text(i), "topic": MOODS[i // ROWS], "source": INTENTS[i % 3]})}, "input=text,output=topic", "negative"),
    Kind("in order of intents", {"rows.csv": table(lambda i: {"text": text(i), "intent": INTENTS[i // ROWS], "product_category": MOODS[i % 3]})}, "input=text,output=intent", "card_arrival"),
    Kind("doccano csv", {"rows.csv": table(lambda i: {"id": i, "text": text(i), "label": ["a", "b", "b#a", "a#c", "c"][i % 5]})}, "input=text,output=label", "a"),
    Kind("json lines with commas", {"rows.jsonl": lines(lambda i: '{"text": "so", "label": "a"},')}, refused="remove the commas at the ends"),
    Kind("openai evals", {"samples.jsonl": jsonl(rows(lambda i: {"input": [{"role": "system", "content": "Name the mood."}, {"role": "user", "content": text(i)}], "ideal": MOODS[i % 3]}))}, "input=input,output=ideal", "negative", asks=1),
    Kind("glue sts-b", {"train.tsv": lines(lambda i: f"{i}\tmain-captions\tMSRvid\t2012test\t{i:04}\tnone\tnone\t{text(i)}\t{text(i, 5)}\t{i % 5}.{i % 4}00", "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n")}, "input=sentence1,input=sentence2,output=score", "0.0"),
    Kind("mturk", {"Batch_1_results.csv": table(lambda i: {"HITId": f"3X{i // 3}", "Title": "Judge a text", "Keywords": "sentiment text", "Reward": "$0.05", "WorkerId": f"W{i % 7}", "AssignmentStatus": "Approved", "Input.text": text(i), "Answer.sentiment.label": MOODS[i % 3], "Approve": "x", "Reject": ""})}, "input=Input.text,output=Answer.sentiment.label", "negative"),
    Kind("intercom", {"conversations.json": as_json({"type": "conversation.list", "conversations": rows(lambda i: {"type": "conversation", "id": f"{i}", "source": {"type": "conversation", "subject": "", "body": text(i), "author": {"id": "9", "name": "Ann"}}, "tags": {"type": "tag.list", "tags": [{"type": "tag", "id": "1", "name": MOODS[i % 3]}]}, "state": "closed"})})}, "input=source.body,output=tags.tags.0.name", "negative", asks=1),
    Kind("github issues", {"issues.json": as_json(rows(lambda i: {"body": text(i, 20), "labels": [{"id": f"LA_{i % 2}", "name": ["bug", "docs"][i % 2], "description": f"about {i % 2} of many", "color": "d73a4a"}], "title": text(i, 4)}))}, "input=body,output=labels.name", "bug"),
    Kind("lighttag", {"rows.json": as_json({"examples": rows(lambda i: {"content": text(i), "metadata": {}, "annotations": [], "classifications": [{"classname": MOODS[i % 3], "classification_id": f"3f2a8c1e-{i}-4b7d-9e0f", "annotated_by": [{"annotator": "Ann", "timestamp": "2024-03-01T10:00:00Z"}]}], "seen_by": [{"annotator": "Ann", "annotator_id": 3}], "example_id": f"e{i}"})})}, "input=content,output=classifications.classname", "negative", asks=1),
    Kind("cola", {"in_domain_train.tsv": lines(lambda i: f"gj04\t{i % 3 and 1}\t{'' if i % 3 else '*'}\t{text(i)}")}, "input=column_4,output=column_2", "0", asks=1),
]
# fmt: on
