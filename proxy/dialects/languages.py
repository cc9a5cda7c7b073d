"""Which languages do Scriptivox and AudioToTextAI offer, and which of them does Whisper have a token for?

The table is Scriptivox's, of 119 languages, in its order and spelling; every language of Whisper's is in it. The
others are heard as whatever is detected, and a job that asked for one says so again.
"""

from __future__ import annotations

from typing import Final

from core.transcript.languages import LANGUAGES

_TABLE: Final = """
af|Afrikaans
sq|Albanian
am|Amharic
ar|Arabic
hy|Armenian
as|Assamese
ast|Asturian
az|Azerbaijani
ba|Bashkir
eu|Basque
be|Belarusian
bn|Bengali
bs|Bosnian
br|Breton
bg|Bulgarian
yue|Cantonese
kea|Cape Verdean Creole
ca|Catalan
ceb|Cebuano
ny|Chichewa
zh|Chinese
hr|Croatian
cs|Czech
da|Danish
nl|Dutch
en|English
et|Estonian
fo|Faroese
fi|Finnish
fr|French
ff|Fula
gl|Galician
ka|Georgian
de|German
el|Greek
gu|Gujarati
ht|Haitian Creole
ha|Hausa
haw|Hawaiian
he|Hebrew
hi|Hindi
hu|Hungarian
is|Icelandic
ig|Igbo
id|Indonesian
ga|Irish
it|Italian
ja|Japanese
jw|Javanese
kam|Kamba
kn|Kannada
kk|Kazakh
km|Khmer
ko|Korean
ky|Kyrgyz
lo|Lao
la|Latin
lv|Latvian
ln|Lingala
lt|Lithuanian
lg|Luganda
luo|Luo
lb|Luxembourgish
mk|Macedonian
mg|Malagasy
ms|Malay
ml|Malayalam
mt|Maltese
mi|Maori
mr|Marathi
mn|Mongolian
my|Myanmar
ne|Nepali
nso|Northern Sotho
no|Norwegian
nn|Nynorsk
oc|Occitan
or|Odia
om|Oromo
ps|Pashto
fa|Persian
pl|Polish
pt|Portuguese
pa|Punjabi
ro|Romanian
ru|Russian
sa|Sanskrit
sr|Serbian
sn|Shona
sd|Sindhi
si|Sinhala
sk|Slovak
sl|Slovenian
so|Somali
ckb|Sorani Kurdish
es|Spanish
su|Sundanese
sw|Swahili
sv|Swedish
tl|Tagalog
tg|Tajik
ta|Tamil
tt|Tatar
te|Telugu
th|Thai
bo|Tibetan
tr|Turkish
tk|Turkmen
uk|Ukrainian
umb|Umbundu
ur|Urdu
uz|Uzbek
vi|Vietnamese
cy|Welsh
wo|Wolof
xh|Xhosa
yi|Yiddish
yo|Yoruba
zu|Zulu
"""

NAMES: Final = dict(row.split("|") for row in _TABLE.split("\n")[1:-1])
"""Code to English name."""


def is_heard(code: str) -> bool:
    """Whether Whisper can be told to hear this language."""
    return code in LANGUAGES
