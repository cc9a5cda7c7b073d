"""Which SEV-SNP guests are accepted, on which platforms? The table `[snp]` of a policy.

::

    [snp]
    measurements = ["<96 hex>"]       # launch digests, one for each number of vCPUs; nothing else names the software
    vmpl = 0                          # the privilege level that the report was asked for from
    # csp_ids = ["..."]               # without this line only the chip's own key (VCEK) is accepted; with it also keys
    #                                   that AMD lent to these clouds (VLEK), for whose keeping the cloud then vouches
    # chip_ids = ["<128 hex>"]        # without this line any chip; of Turin the 16 digits that it uses are enough
    # host_data = ["<64 hex>"]        # without these lines what the host gave to the guest at its launch, and
    # id_key_digests = ["<96 hex>"]   # who signed the ID block, is not asked
    # author_key_digests = ["<96 hex>"]
    # family_ids = ["<32 hex>"]       # of the ID block: only together with the digests of a key that signs it
    # image_ids = ["<32 hex>"]
    allow_smt = false                 # true where the guest may share a core with other guests: on most clouds
    allow_cxl = false                 # memory beyond the processor's own
    require_guest_policy = []         # single_socket, aes_256_xts, rapl_disabled, ciphertext_hiding, page_swap_disabled
    require_platform = ["alias_check"]  # also tsme, ecc, rapl_disabled, ciphertext_hiding, tio; alias_check: BadRAM
    min_firmware = "1.55"
    allow_provisional_firmware = false  # firmware that the platform can still roll back
    max_report_version = 5            # what a newer one says is not known here
    allow_stale_crl_s = 0             # how long after its next update a revocation list still counts
    # max_crl_age_s = 604800          # without this line a list counts until its next update
    allow_missing_crl = false         # true: whoever can withhold the list can use a revoked key

    [[snp.products]]                  # each product that is accepted, with the oldest firmware that is
    name = "Milan"
    min_tcb = { bootloader = 4, tee = 0, snp = 24, microcode = 219 }

    [[snp.products]]
    name = "Turin"
    min_tcb = { fmc = 1, bootloader = 1, tee = 1, snp = 4, microcode = 81 }
    required_mitigations = 0x3f       # bits of the mitigation vectors, at launch and now; reports of version 5

Debugging and migration cannot be allowed: with either, the host reads the guest's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from attestation.snp.abi import NEWEST_VERSION, OLDEST_VERSION, FirmwareVersion, Product, Tcb
from core.program.validation import STRICT, Hex, Label, Sha256Hex

Hex16 = Annotated[str, Hex(32)]
Hex48 = Annotated[str, Hex(96)]
ChipId = Annotated[str, Hex(16, 128)]
Seconds = Annotated[int, Field(ge=0, le=315_360_000)]
Bits64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
Firmware = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]
NotEmpty = Field(min_length=1)


class GuestRequirement(StrEnum):
    """A bit of the guest policy, by its name in `GuestPolicy`."""

    SINGLE_SOCKET = "single_socket"
    AES_256_XTS = "aes_256_xts"
    RAPL_DISABLED = "rapl_disabled"
    CIPHERTEXT_HIDING = "ciphertext_hiding"
    PAGE_SWAP_DISABLED = "page_swap_disabled"


class PlatformRequirement(StrEnum):
    """A bit of the platform information, by its name in `PlatformInfo`."""

    TSME = "tsme"
    ECC = "ecc"
    RAPL_DISABLED = "rapl_disabled"
    CIPHERTEXT_HIDING = "ciphertext_hiding"
    ALIAS_CHECK = "alias_check"
    TIO = "tio"


@dataclass(frozen=True, slots=True)
class ProductPolicy:
    """A product that is accepted.

    min_tcb: of what was reported, what cannot be rolled back any more, and what the guest was launched on.
    required_mitigations: bits of LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR.
    """

    __pydantic_config__ = STRICT

    name: Product
    min_tcb: Tcb
    required_mitigations: Bits64 = 0


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """Reference values for SEV-SNP reports; None where the policy does not ask.

    Raises ValueError naming every contradiction.
    """

    __pydantic_config__ = STRICT

    measurements: Annotated[tuple[Hex48, ...], NotEmpty]
    products: Annotated[tuple[ProductPolicy, ...], NotEmpty]
    vmpl: Annotated[int, Field(ge=0, le=3)] = 0
    csp_ids: Annotated[tuple[Label, ...], NotEmpty] | None = None
    chip_ids: Annotated[tuple[ChipId, ...], NotEmpty] | None = None
    host_data: Annotated[tuple[Sha256Hex, ...], NotEmpty] | None = None
    id_key_digests: Annotated[tuple[Hex48, ...], NotEmpty] | None = None
    author_key_digests: Annotated[tuple[Hex48, ...], NotEmpty] | None = None
    family_ids: Annotated[tuple[Hex16, ...], NotEmpty] | None = None
    image_ids: Annotated[tuple[Hex16, ...], NotEmpty] | None = None
    allow_smt: bool = False
    allow_cxl: bool = False
    require_guest_policy: tuple[GuestRequirement, ...] = ()
    require_platform: tuple[PlatformRequirement, ...] = (PlatformRequirement.ALIAS_CHECK,)
    min_firmware: Firmware = "1.55"
    allow_provisional_firmware: bool = False
    max_report_version: Annotated[int, Field(ge=OLDEST_VERSION, le=255)] = NEWEST_VERSION
    allow_stale_crl_s: Seconds = 0
    max_crl_age_s: Seconds | None = None
    allow_missing_crl: bool = False

    def __post_init__(self) -> None:
        if faults := tuple(_faults(self)):
            raise ValueError("; ".join(faults))

    def product(self, name: Product) -> ProductPolicy | None:
        """The rules for a product; None when it is not accepted."""
        return next((product for product in self.products if product.name is name), None)

    @property
    def oldest_firmware(self) -> FirmwareVersion:
        major, minor = self.min_firmware.split(".")
        return FirmwareVersion(int(major), int(minor))


def _faults(policy: SnpPolicy) -> Iterator[str]:
    if not policy.measurements:
        yield "no measurement is named"
    if not policy.products:
        yield "no product is named"
    for name, times in Counter(product.name for product in policy.products).items():
        if times > 1:
            yield f"{name} is named twice"
    for product in policy.products:
        if product.name.has_fmc is not (product.min_tcb.fmc is not None):
            yield f"the min_tcb of {product.name} must {'' if product.name.has_fmc else 'not '}name fmc"
    names_id_block = policy.family_ids is not None or policy.image_ids is not None
    if names_id_block and not (policy.id_key_digests or policy.author_key_digests):
        yield "family_ids and image_ids prove nothing while any host may sign them: name id_key_digests"
    if policy.allow_missing_crl and (policy.allow_stale_crl_s or policy.max_crl_age_s is not None):
        yield "with allow_missing_crl, max_crl_age_s and allow_stale_crl_s ask for nothing"
