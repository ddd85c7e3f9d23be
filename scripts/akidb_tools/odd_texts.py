"""Thirty texts unlike any calibration set: scripts, emoji, code, noise, repetition. Data only.

Quantization must hold on them too: per-row scales do, scales fixed in calibration may clip.
"""

from __future__ import annotations

ODD_TEXTS: tuple[str, ...] = (
    "天气预报说明天会下大雪，请大家注意安全。",
    "機械学習モデルを量子化しても、精度はほとんど落ちません。",
    "지하철 공사로 인해 버스 노선이 변경되었습니다.",
    "這本書的作者住在臺北，已經寫了三十年的小說。",
    "تم تحديث سياسة الخصوصية الخاصة بنا، يرجى قراءتها بعناية.",
    "הרכבת האחרונה יוצאת בשעה אחת עשרה בלילה.",
    "Последний поезд отправляется без четверти двенадцать.",
    "Το πλοίο φεύγει από τον Πειραιά νωρίς το πρωί.",
    "ขอบคุณที่ใช้บริการของเรา",
    "नई दिल्ली से मुंबई की उड़ान दो घंटे देर से चल रही है।",
    "😀😃😄😁🥳🎂🎈",
    "👩🏽‍🚀🛰️🌍➡️🌕 one small step 🚀",
    "🙂 " * 60,
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; } /* dot */",
    "import numpy as np\nx = np.einsum('bij,bjk->bik', a, b)\nassert x.shape == (4, 8, 8)",
    '{"id": 17, "tags": ["a", "b"], "nested": {"ok": true, "ratio": 0.125}}',
    "<div class=\"row\"><a href='/x?y=1&amp;z=2'>link</a></div>",
    "SELECT u.id FROM users u LEFT JOIN orders o ON o.user_id = u.id WHERE o.id IS NULL;",
    "\\int_0^\\infty e^{-x^2} dx = \\frac{\\sqrt{\\pi}}{2}",
    "!!!!!!!!!!!!!!!!????????????........",
    "a",
    "0",
    "3.14159265358979323846264338327950288419716939937510",
    "x" * 400,
    "deadbeefcafebabe0123456789abcdef" * 8,
    "word " * 300,
    "the " * 300,
    "不 " * 300,
    "zzyzx qwfp arstdhneio " * 40,
    "ALL CAPITALS WITH NO PUNCTUATION AT ALL " * 30,
)
