"""A paragraph in each of eleven languages, made up for the tests, with questions and answers."""

import json
from pathlib import Path
from random import Random

from src.data.squad_types import Paragraph, Question

# language -> (context, {question: answer})
TEXTS = {
    "hi": (
        "मेरी बहन सीता दिल्ली में रहती है। उसने 1990 में पुराने विद्यालय में नौकरी शुरू की। "
        "वह हर साल १५ अगस्त १९९२ को अपने गाँव के मेले में जाती है। क्षेत्रीय संग्रहालय में 35 चित्र हैं।",
        {"बहन का नाम?": "सीता", "कहाँ?": "दिल्ली", "कब?": "1990", "चित्र?": "35",
         "कहाँ नौकरी?": "पुराने विद्यालय में", "कौन सा?": "क्षेत्रीय संग्रहालय"},
    ),
    "th": (
        "สมชายอาศัยอยู่ที่เชียงใหม่ เขาทำงานในโรงเรียนเก่าตั้งแต่ปี 2010 น้ำตกอยู่ทางเหนือของหมู่บ้าน "
        "พิพิธภัณฑ์เปิดเมื่อ 5 ธันวาคม พ.ศ. 2530 มีภาพวาด 35 ภาพและหนังสือเก่ามากมาย",
        {"ใคร?": "สมชาย", "ที่ไหน?": "เชียงใหม่", "ปีไหน?": "2010", "กี่ภาพ?": "35",
         "อะไรอยู่เหนือ?": "น้ำตก", "ทำงานที่ไหน?": "โรงเรียนเก่า"},
    ),
    "zh": (
        "张三在北京大学学习物理。李四在上海工作。王五去了2010年的展览会。《三体》是一部小说，共有35章。"
        "赵六于1998年5月1日出生在南京。",
        {"张三在哪里？": "北京大学", "李四在哪里？": "上海", "哪一年？": "2010年", "几章？": "35",
         "小说？": "三体", "生日？": "1998年5月1日"},
    ),
    "ja": (
        "田中さんは京都の大学で物理を学んだ。彼は2010年にコンピューターの会社を作った。"
        "「雪の国」という本は35章ある。平成22年に博物館が開いた。",
        {"どこ？": "京都", "いつ？": "2010年", "何？": "コンピューターの会社", "何章？": "35",
         "本？": "雪の国", "博物館？": "平成22年"},
    ),
    "ko": (
        "김철수는 부산에서 물리학을 공부했다. 그는 2010년 5월 1일에 작은 회사를 세웠다. "
        "박물관은 1998년에 열렸고 그림이 35점 있다. 이영희는 오래된 학교에서 일한다.",
        {"어디?": "부산", "언제?": "2010년 5월 1일", "무엇?": "작은 회사", "몇 점?": "35",
         "누구?": "이영희", "어디서?": "오래된 학교"},
    ),
    "ru": (
        "Анна живёт в городе Тула и работает в старой школе. Она родилась 12 мая 1804 года. "
        "Иван Петров купил 35 картин. Музей открылся в 1990 году в Казани.",
        {"Кто?": "Анна", "Где?": "Тула", "Когда?": "12 мая 1804", "Сколько?": "35",
         "Кто купил?": "Иван Петров", "Где работает?": "в старой школе"},
    ),
    "de": (
        "Jürgen Müller fährt öfter über die Brücke nach Köln. Er wurde am 12. März 1804 geboren. "
        "Das Museum öffnete 1990 und zeigt 35 alte Gemälde von Änne Groß.",
        {"Wer?": "Jürgen Müller", "Wohin?": "Köln", "Wann?": "12. März 1804", "Wie viele?": "35",
         "Von wem?": "Änne Groß", "Worüber?": "über die Brücke"},
    ),
    "ar": (
        "تعيش سارة في دمشق القديمة. هل بدأت العمل عام ١٩٩٠؟ نعم، في مدرسة كبيرة قرب النهر. "
        "افتتح المتحف في 12 مايو 2010 وفيه ٣٥ لوحة.",
        {"من؟": "سارة", "أين؟": "دمشق القديمة", "متى؟": "١٩٩٠", "كم؟": "٣٥",
         "المتحف؟": "12 مايو 2010", "أين تعمل؟": "مدرسة كبيرة"},
    ),
    "el": (
        "Ο Νίκος μένει στην Πάτρα από το 1995. Πόσους πίνακες έχει το μουσείο; Έχει 35 πίνακες. "
        "Η Ελένη Παππά ήρθε στις 3 Μαΐου 2001 από το παλιό σχολείο.",
        {"Ποιος;": "Νίκος", "Πού;": "Πάτρα", "Από πότε;": "1995", "Πόσους;": "35",
         "Ποια;": "Ελένη Παππά", "Πότε;": "3 Μαΐου 2001", "Από πού;": "το παλιό σχολείο"},
    ),
    "he": (
        "דנה גרה בחיפה מאז 1985. האם היא עובדת במוזיאון הישן? כן, יש שם 35 ציורים. "
        "בית הספר נפתח בשנת 2010 ליד הנהר.",
        {"מי?": "דנה", "מאז מתי?": "1985", "איפה?": "במוזיאון הישן", "כמה?": "35",
         "מה נפתח?": "בית הספר", "מתי נפתח?": "2010"},
    ),
    "km": (
        "សុខរស់នៅភ្នំពេញ។ គាត់ធ្វើការនៅសាលារៀនចាស់តាំងពីឆ្នាំ 1990។ សារមន្ទីរមានគំនូរ 35 ផ្ទាំង។",
        {"អ្នកណា?": "សុខ", "ឯណា?": "ភ្នំពេញ", "ឆ្នាំណា?": "1990", "ប៉ុន្មាន?": "35"},
    ),
}


def paragraph_of(language: str) -> Paragraph:
    """The paragraph of a language, as the loader gives it."""
    context, asked = TEXTS[language]
    return Paragraph(
        language,
        context,
        tuple(
            Question(f"{language}{n}", question, (answer,), (context.index(answer),))
            for n, (question, answer) in enumerate(asked.items())
        ),
    )


def many(language: str, copies: int) -> list[Paragraph]:
    """So many copies under other titles and ids."""
    one = paragraph_of(language)
    return [
        one._replace(
            title=f"{language} {n}",
            questions=tuple(q._replace(id=f"{q.id}-{n}") for q in one.questions),
        )
        for n in range(copies)
    ]


def long_chinese(count: int) -> list[Paragraph]:
    """Paragraphs of four sentences of 20 to 90 characters, a question each, answers of 2 to 8."""
    rng = Random(0)
    letters = "山水花木天地人口大小中国学生老师工人农民城市河流音乐历史文化经济科技医院铁路图书电影"
    paragraphs = []
    for n in range(count):
        sentences = ["".join(rng.choices(letters, k=rng.randint(20, 90))) + "。" for _ in range(4)]
        context, questions, start = "".join(sentences), [], 0
        for i, sentence in enumerate(sentences):
            length = rng.randint(2, 8)
            at = start + rng.randrange(len(sentence) - length)
            asked = context[at : at + length]
            questions.append(Question(f"{n}-{i}", f"第{i}句？", (asked,), (at,)))
            start += len(sentence)
        paragraphs.append(Paragraph(f"T{n}", context, tuple(questions)))
    return paragraphs


def write_squad(path: str, paragraphs: list[Paragraph]) -> str:
    """The paragraphs as an official SQuAD file, an article each; returns the path."""
    articles = []
    for title, context, questions, _ in paragraphs:
        qas = [
            {"id": q.id, "question": q.text, "answers": [
                {"text": text, "answer_start": start}
                for text, start in zip(q.answers, q.starts, strict=True)
            ]}
            for q in questions
        ]
        articles.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    Path(path).write_text(json.dumps({"data": articles}, ensure_ascii=False), encoding="utf-8")
    return path
