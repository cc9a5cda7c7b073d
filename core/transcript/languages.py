"""Which languages Whisper knows, and by which names a caller may ask for them.

The 100 languages of large-v3 in the order of their tokens (openai/whisper, `tokenizer.py`); models before large-v3
know all but the last. OpenAI prints the English names of this table as `language` of a `verbose_json`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SPACELESS: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words, as in `split_to_word_tokens` of OpenAI's `whisper/tokenizer.py`."""


@dataclass(frozen=True, slots=True)
class Language:
    """A language that Whisper has a token for.

    code: Whisper's code: ISO 639-1, save `haw` and `yue`, which have no such code, and `jw` for `jv`.
    name: in English, lower case.
    aliases: ISO 639-3 and 639-2 codes, withdrawn codes that are still sent, and further English names.
    """

    code: str
    name: str
    aliases: tuple[str, ...]


# code | name | ISO 639-3, then other codes | other English names
_TABLE: Final = """
en|english|eng|
zh|chinese|zho chi cmn|mandarin
de|german|deu ger|
es|spanish|spa|castilian
ru|russian|rus|
ko|korean|kor|
fr|french|fra fre|
ja|japanese|jpn|
pt|portuguese|por|
tr|turkish|tur|
pl|polish|pol|
ca|catalan|cat|valencian
nl|dutch|nld dut|flemish
ar|arabic|ara arb|
sv|swedish|swe|
it|italian|ita|
id|indonesian|ind in|
hi|hindi|hin|
fi|finnish|fin|
vi|vietnamese|vie|
he|hebrew|heb iw|
uk|ukrainian|ukr|
el|greek|ell gre|
ms|malay|msa may zsm|
cs|czech|ces cze|
ro|romanian|ron rum mo|moldavian,moldovan
da|danish|dan|
hu|hungarian|hun|
ta|tamil|tam|
no|norwegian|nor nb nob|bokmal,norwegian bokmal
th|thai|tha|
ur|urdu|urd|
hr|croatian|hrv|
bg|bulgarian|bul|
lt|lithuanian|lit|
la|latin|lat|
mi|maori|mri mao|
ml|malayalam|mal|
cy|welsh|cym wel|
sk|slovak|slk slo|
te|telugu|tel|
fa|persian|fas per pes|farsi
lv|latvian|lav lvs|
bn|bengali|ben|bangla
sr|serbian|srp|
az|azerbaijani|aze azj|
sl|slovenian|slv|slovene
kn|kannada|kan|
et|estonian|est ekk|
mk|macedonian|mkd mac|
br|breton|bre|
eu|basque|eus baq|
is|icelandic|isl ice|
hy|armenian|hye arm|
ne|nepali|nep npi|
mn|mongolian|mon khk|
bs|bosnian|bos|
kk|kazakh|kaz|
sq|albanian|sqi alb|
sw|swahili|swa swh|
gl|galician|glg|
mr|marathi|mar|
pa|punjabi|pan|panjabi
si|sinhala|sin|sinhalese
km|khmer|khm|cambodian
sn|shona|sna|
yo|yoruba|yor|
so|somali|som|
af|afrikaans|afr|
oc|occitan|oci|
ka|georgian|kat geo|
be|belarusian|bel|
tg|tajik|tgk|
sd|sindhi|snd|
gu|gujarati|guj|
am|amharic|amh|
yi|yiddish|yid ydd ji|
lo|lao|lao|
uz|uzbek|uzb uzn|
fo|faroese|fao|
ht|haitian creole|hat|haitian
ps|pashto|pus pbt|pushto
tk|turkmen|tuk|
nn|nynorsk|nno|norwegian nynorsk
mt|maltese|mlt|
sa|sanskrit|san|
lb|luxembourgish|ltz|letzeburgesch
my|myanmar|mya bur|burmese
bo|tibetan|bod tib|
tl|tagalog|tgl fil|filipino
mg|malagasy|mlg plt|
as|assamese|asm|
tt|tatar|tat|
haw|hawaiian|haw|
ln|lingala|lin|
ha|hausa|hau|
ba|bashkir|bak|
jw|javanese|jav jv|
su|sundanese|sun|
yue|cantonese|yue|
"""


def _language(row: str) -> Language:
    code, name, codes, names = row.split("|")
    aliases = (*codes.split(), *filter(None, names.split(",")))
    return Language(code, name, aliases)


LANGUAGES: Final = {language.code: language for language in map(_language, _TABLE.split("\n")[1:-1])}
"""Whisper code to language, in token order."""

_CODES: Final = {
    alias: language.code
    for language in LANGUAGES.values()
    for alias in (language.code, language.name, *language.aliases)
}

# RFC 5646: a primary subtag, then script, region, variants; `_` as in POSIX locales.
_TAG: Final = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]{1,8}){1,4}")


def code_of(text: str) -> str | None:
    """Whisper's code for a code, language tag (`en-US`: the region is dropped) or English name; None if unknown.

    Case does not matter.
    """
    wanted = text.strip().lower()
    if tag := _TAG.fullmatch(wanted):
        wanted = tag[1]
    return _CODES.get(wanted)


def name_of(code: str) -> str:
    """The English name that OpenAI prints for a Whisper code; the code itself if the table has none."""
    language = LANGUAGES.get(code)
    return code if language is None else language.name
