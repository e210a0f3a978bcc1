"""Names of columns in other languages, by the English name that they stand for."""

import unicodedata

_NAMES = {
    "question":
        "pregunta pergunta frage domanda întrebare вопрос питання pytanie otázka vraag soru "
        "pertanyaan câu_hỏi 问题 問題 提问 質問 질문 سؤال السؤال प्रश्न คำถาม fråga spørgsmål "
        "spørsmål kysymys kérdés ερώτηση שאלה پرسش سوال প্রশ্ন питање pitanje въпрос",
    "answer":
        "respuesta resposta antwort réponse risposta răspuns ответ відповідь odpowiedź "
        "odpověď antwoord cevap yanıt jawaban câu_trả_lời trả_lời 答案 回答 答え 답변 대답 답 "
        "جواب الجواب إجابة الإجابة उत्तर คำตอบ svar vastaus válasz απάντηση תשובה پاسخ উত্তর "
        "одговор odgovor отговор",
    "text":
        "texto texte testo текст tekst metin teks văn_bản 文本 正文 テキスト 本文 텍스트 본문 "
        "نص النص ข้อความ पाठ טקסט متن szöveg teksti κείμενο",
    "sentence":
        "oración frase phrase satz предложение речення zdanie věta zin cümle kalimat câu 句子 "
        "文 문장 جملة الجملة ประโยค वाक्य lause mondat",
    "label":
        "etiqueta étiquette rótulo etichetta метка мітка etykieta etiket nhãn 标签 標籤 标注 "
        "ラベル 라벨 레이블 تصنيف ป้าย",
    "class":
        "clase classe klasse klasa класс клас kelas sınıf 类 クラス 클래스",
    "category":
        "categoría categoria catégorie kategorie категория категорія kategoria kategori "
        "kategorija 类别 類別 分类 分類 カテゴリ カテゴリー 카테고리 분류 فئة الفئة หมวดหมู่ "
        "danh_mục श्रेणी",
    "sentiment":
        "sentimiento sentimento stimmung настроение тональность sentimen duygu cảm_xúc 情感 "
        "情绪 감성 مشاعر المشاعر ความรู้สึก",
    "emotion":
        "emoción emoção émotion emozione эмоция emosi 感情 감정",
    "topic":
        "tema thème thema argomento тема topik konu chủ_đề 主题 トピック 주제 موضوع الموضوع",
    "intent":
        "intención intenção intenzione absicht намерение намір niyet 意图 意図 의도",
    "review":
        "reseña opinia recensione отзыв відгук ulasan 评论 評論 レビュー 리뷰 مراجعة المراجعة "
        "รีวิว",
    "comment":
        "comentario comentário commentaire kommentar commento комментарий коментар komentar "
        "yorum bình_luận コメント 댓글 تعليق التعليق ความคิดเห็น",
    "message":
        "mensaje mensagem nachricht messaggio сообщение повідомлення wiadomość pesan mesaj "
        "tin_nhắn 消息 メッセージ 메시지 رسالة",
    "title":
        "título titre titel titolo заголовок judul başlık tiêu_đề 标题 標題 タイトル 제목 "
        "عنوان العنوان tytuł",
    "summary":
        "resumen resumo résumé zusammenfassung riassunto ringkasan özet tóm_tắt 摘要 要約 "
        "요약 ملخص",
    "translation":
        "traducción tradução traduction übersetzung traduzione перевод переклад terjemahan "
        "çeviri bản_dịch 翻译 翻譯 翻訳 번역 ترجمة الترجمة tłumaczenie",
    "context":
        "contexto contexte kontext contesto контекст konteks bağlam ngữ_cảnh 上下文 文脈 문맥 "
        "지문 سياق",
    "instruction":
        "instrucción instrução anweisung istruzione инструкция 指令 指示 지시 지시문 talimat "
        "instruksi",
}  # fmt: skip


def _plain(word: str) -> str:
    """Return a word without its marks, such as accents, which names often lack."""
    parts = unicodedata.normalize("NFKD", word.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))


_ENGLISH = {_plain(word): name for name, words in _NAMES.items() for word in words.split()}


def in_english(name: str) -> str:
    """Return the English name of a column if it is known, else the name as it is.

    Example:
        >>> in_english("intrebare"), in_english("Réponse"), in_english("质量")
        ('question', 'answer', '质量')
    """
    return _ENGLISH.get(_plain(name), name)
