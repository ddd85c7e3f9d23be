"""The texts every bundle proves itself with: short, long, many scripts, code, noise. Data only.

Changing one changes every future reference.json (not the artifacts already made).
"""

from __future__ import annotations

_LONG = (
    "The harbour wakes before the town does. Cranes turn slowly over the water, a tug pulls a grey freighter past "
    "the mole, and the first lorries queue at the gate with their engines off. "
)
_LONG_MIXED = "Über 1.200 Behälter, élan vital, 貨物の一覧, список грузов; next page. "

TEXTS: tuple[str, ...] = (
    "What is Deep Learning?",
    "A boat crosses the lake at dawn.",
    "At first light a small vessel makes its way over the water.",
    "The invoice for March is still unpaid; please send a reminder before Friday.",
    "yes",
    "?",
    " ",
    "Crème brûlée, façade, naïve, Ångström, señor, Łódź and Dvořák.",
    "Straßenbahnhaltestellenüberdachung",
    "今天下午三点在图书馆门口见面。",
    "電車が遅れているので、会議に少し遅れます。",
    "오늘 저녁에는 비가 올 것 같아요.",
    "أين تقع أقرب محطة للقطار؟",
    "Где находится ближайшая аптека?",
    "कल सुबह बाज़ार खुला रहेगा।",
    "Launch day 🚀🎉 — thanks to everyone 👩‍💻👨🏽‍🔧 who stayed late!",
    'fn main() { let xs: Vec<u32> = (1..=10).filter(|n| n % 3 == 0).collect(); println!("{xs:?}"); }',
    "SELECT region, COUNT(*) FROM orders WHERE placed_at >= '2024-01-01' GROUP BY region HAVING COUNT(*) > 10;",
    "echo echo echo echo echo echo echo echo echo echo echo echo echo echo echo echo",
    "Error 0x80070057 at 10.0.12.7:8443 (retry 3/5) id=7f3e-44aa-91c0",
    "https://example.org/a/b?q=one%20two&lang=en#part-3",
    "tab\tseparated\tvalues\nand a second line\r\nwith a carriage return",
    _LONG * 4,
    _LONG * 40,
    _LONG_MIXED * 60,
)
