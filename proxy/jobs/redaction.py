"""What personal data is in a transcript, and what is left of the text without it?

Found by the patterns and check digits of presidio-analyzer, and by its use of libphonenumber: by how it is written.
What is spelled out ("five five five"), and names and addresses, no rule finds. Where something was, `[EMAIL_ADDRESS]`
and the like stands, in the text, its segments and its words. Nothing is asked of a network, and no model is needed.

Needs the extra `redaction`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from core.transcript.types import Segment, Transcript, Word
from proxy.jobs.model import JobOptions, JobResult, PartPlan, PersonalData
from proxy.jobs.ports import Stitcher

REGIONS: Final = ("US", "GB", "CA", "AU", "IN", "DE", "FR", "ES", "IT", "NL", "CH", "AT", "PL", "BR", "MX")
"""Whose telephone numbers are known without their country's code."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where something begins and before which it ends."""

    start: int
    end: int
    kind: PersonalData
    score: float = field(default=1.0)


Find = Callable[[str, Collection[PersonalData]], Sequence[Found]]


@dataclass(frozen=True, slots=True)
class Redacting:
    """A `Stitcher` that leaves out of what another makes what is not to be kept.

    It takes seconds for hours of speech, so it is not called where others wait.
    """

    stitcher: Stitcher
    find: Find = field(default_factory=lambda: find)

    def stitch(self, parts: Sequence[tuple[PartPlan, Transcript]], options: JobOptions) -> JobResult:
        made = self.stitcher.stitch(parts, options)
        if not options.redact:
            return made
        counts: Counter[PersonalData] = Counter(dict.fromkeys(options.redact, 0))
        transcript = self._redacted(made.transcript, options, counts)
        channels = tuple(self._redacted(channel, options, Counter()) for channel in made.channels)
        return replace(made, transcript=transcript, channels=channels, redacted=dict(counts))

    def _redacted(self, transcript: Transcript, options: JobOptions, counts: Counter[PersonalData]) -> Transcript:
        """Without log probabilities and tokens, which spell the text once more."""
        said = " ".join(segment.text for segment in transcript.segments)
        found = in_turn(self.find(said, options.redact))
        segments, at = [], 0
        for segment in transcript.segments:
            segments.append(_without(segment, [_moved(each, -at) for each in found]))
            at += len(segment.text) + 1
        in_text = in_turn(self.find(transcript.text, options.redact))
        counts.update(each.kind for each in in_text)
        text = _replaced(transcript.text, in_text)
        return replace(transcript, text=text, segments=tuple(segments), logprobs=())


def in_turn(found: Sequence[Found]) -> list[Found]:
    """In order and without overlap; of those that overlap, the surest says what it is."""
    joined: list[Found] = []
    for each in sorted(found, key=lambda one: (one.start, -one.end)):
        if joined and each.start < joined[-1].end:
            surest = max(joined[-1], each, key=lambda one: one.score)
            joined[-1] = replace(surest, start=joined[-1].start, end=max(joined[-1].end, each.end))
        else:
            joined.append(each)
    return joined


def _moved(found: Found, by: int) -> Found:
    return replace(found, start=found.start + by, end=found.end + by)


def _replaced(text: str, found: Sequence[Found]) -> str:
    """What begins in `text` is told; of what began before it nothing is left."""
    kept, at = [], 0
    for each in found:
        start, end = max(each.start, 0), min(each.end, len(text))
        if start < end:
            kept += [text[at:start], _told(each) if each.start >= 0 else ""]
            at = end
    return "".join([*kept, text[at:]])


def _told(found: Found) -> str:
    return f"[{found.kind.value.upper()}]"


def _without(segment: Segment, found: Sequence[Found]) -> Segment:
    """found: places in the segment's text, before and behind it too."""
    here = [each for each in found if each.start < len(segment.text) and each.end > 0]
    words = _words_without(segment, here) if here else list(segment.words)
    return replace(segment, text=_replaced(segment.text, here), words=tuple(words), tokens=())


def _words_without(segment: Segment, found: Sequence[Found]) -> list[Word]:
    """None at all where they are not those of the text, and so nobody knows which of them it would be."""
    words: list[Word] = []
    at, before = 0, None
    for word in segment.words:
        start = segment.text.find(word.text.strip(), at)
        if start < 0:
            return []
        at = start + len(word.text.strip())
        inside = next((each for each in found if each.start < at and start < each.end), None)
        if inside is None:
            words.append(word)
        elif inside.start >= 0 and inside is before:  # one thing in several words, of which one is left
            words[-1] = replace(words[-1], end_s=word.end_s)
        elif inside.start >= 0:
            words.append(replace(word, text=_told(inside), probability=None))
        before = inside
    return words


def find(text: str, wanted: Collection[PersonalData]) -> list[Found]:
    return [
        Found(each.start, each.end, kind, each.score)
        for kind in wanted
        for each in _recogniser(kind).analyze(text, [kind.value.upper()], None)
    ]


@lru_cache
def _recogniser(kind: PersonalData) -> Any:
    """Imported when it is first needed: it takes seconds."""
    from presidio_analyzer import predefined_recognizers as known  # noqa: PLC0415
    from tldextract import TLDExtract  # noqa: PLC0415

    # Its own would ask the network for the list of public suffixes.
    domains = TLDExtract(cache_dir=None, suffix_list_urls=())

    class Email(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).top_domain_under_public_suffix)

    made: dict[PersonalData, Callable[[], Any]] = {
        PersonalData.CREDIT_CARD: known.CreditCardRecognizer,
        PersonalData.CRYPTO: known.CryptoRecognizer,
        PersonalData.EMAIL_ADDRESS: Email,
        PersonalData.IBAN_CODE: known.IbanRecognizer,
        PersonalData.IP_ADDRESS: known.IpRecognizer,
        PersonalData.PHONE_NUMBER: lambda: known.PhoneRecognizer(supported_regions=REGIONS),
        PersonalData.URL: known.UrlRecognizer,
        PersonalData.US_SSN: known.UsSsnRecognizer,
    }
    return made[kind]()
