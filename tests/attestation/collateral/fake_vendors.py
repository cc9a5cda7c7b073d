"""AMD's KDS, Intel's PCS and NVIDIA's services on one real socket, with what the forges sign to give out.

::

    vendors = Vendors(published=amd.collateral(report) | machine.collateral(), intel=intel)
    async with vendors.running() as sources:
        ...                                    # CollateralStore(..., sources=sources)

How each is asked is written down here once more, so that the questions are not tested against themselves.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import quote

from aiohttp import web

from attestation.collateral.source import Sources
from attestation.types import (
    CollateralKey,
    CollateralKind,
    Nonce,
)
from core.program.http.listener import listening
from tests.attestation.gpu.forge_rim import jwks, nras_answer
from tests.attestation.servers import LOOPBACK, constant_answer
from tests.attestation.tdx.forge import PLATFORM, ForgedIntel

_PLACES = {
    "Milan": ("blSPL", "teeSPL", None, None, None, None, "snpSPL", "ucodeSPL"),
    "Genoa": ("blSPL", "teeSPL", None, None, None, None, "snpSPL", "ucodeSPL"),
    "Turin": ("fmcSPL", "blSPL", "teeSPL", "snpSPL", None, None, None, "ucodeSPL"),
}
"""Which byte of a TCB version each parameter of the KDS is."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Vendors:
    """All of them. published: what they have. instead: what they answer to everything, if there is something.

    asked: every request, `METHOD /path?query`, in order.
    """

    published: dict[CollateralKey, bytes] = field(default_factory=dict)
    intel: ForgedIntel = field(default_factory=ForgedIntel)
    instead: Answer | None = None
    asked: list[str] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Sources]:
        """Serve; yields where."""

        @web.middleware
        async def note(request: web.Request, handler: Answer) -> web.StreamResponse:
            return await self._note(request, handler)

        app = web.Application(middlewares=[note], client_max_size=1024 * 1024)
        app.router.add_get("/kds/{key}/v1/{product}/cert_chain", self._kds_chain)
        app.router.add_get("/kds/{key}/v1/{product}/crl", self._kds_crl)
        app.router.add_get("/kds/vcek/v1/{product}/{chip:[0-9a-f]+}", self._kds_vcek)
        app.router.add_get("/pcs/tdx/certification/v4/tcb", self._tcb)
        app.router.add_get("/pcs/tdx/certification/v4/qe/identity", self._qe_identity)
        app.router.add_get("/pcs/sgx/certification/v4/pckcrl", self._pck_crl)
        app.router.add_get("/IntelSGXRootCA.der", self._root_crl)
        app.router.add_get("/rim/v1/rim/{id}", self._rim)
        app.router.add_post("/ocsp/", self._ocsp)
        app.router.add_post("/nras/v4/attest/{kind}", self._nras)
        app.router.add_get("/nras/.well-known/jwks.json", self._jwks)
        async with listening(app, [LOOPBACK], error_response=constant_answer) as (address,):
            at = f"http://{address}"
            yield Sources(
                amd_kds=f"{at}/kds",
                intel_pcs=f"{at}/pcs",
                intel_root_crl=f"{at}/IntelSGXRootCA.der",
                nvidia_rim=f"{at}/rim",
                nvidia_ocsp=f"{at}/ocsp/",
                nvidia_nras=f"{at}/nras",
            )

    async def _note(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(0)
            return await (self.instead or handler)(request)
        finally:
            self.busy -= 1

    def _piece(self, kind: CollateralKind, name: str) -> bytes:
        if (data := self.published.get(CollateralKey(kind, name))) is None:
            raise web.HTTPNotFound
        return data

    async def _kds_chain(self, request: web.Request) -> web.Response:
        name = "{key}/{product}".format(**request.match_info)
        return web.Response(body=self._piece(CollateralKind.SNP_CHAIN, name), content_type="application/x-pem-file")

    async def _kds_crl(self, request: web.Request) -> web.Response:
        name = "{key}/{product}".format(**request.match_info)
        return web.Response(body=self._piece(CollateralKind.SNP_CRL, name))

    async def _kds_vcek(self, request: web.Request) -> web.Response:
        product, chip = request.match_info["product"], request.match_info["chip"]
        places = _PLACES[product]
        if set(request.query) != set(places) - {None}:
            raise web.HTTPBadRequest
        tcb = bytes(int(request.query[name]) if name else 0 for name in places)
        return web.Response(body=self._piece(CollateralKind.SNP_VEK, f"vcek/{product}/{chip}/{tcb.hex()}"))

    async def _tcb(self, request: web.Request) -> web.Response:
        if dict(request.query) != {"fmspc": PLATFORM["fmspc"].hex()}:
            raise web.HTTPNotFound
        return self._signed("tcbInfo", "tcb_info", "TCB-Info-Issuer-Chain")

    async def _qe_identity(self, _: web.Request) -> web.Response:
        return self._signed("enclaveIdentity", "qe_identity", "SGX-Enclave-Identity-Issuer-Chain")

    def _signed(self, member: str, ours: str, header: str) -> web.Response:
        members = self.intel.members()
        body = f'{{"{member}":{members[ours]},"signature":"{members[f"{ours}_signature"]}"}}'
        chain = quote(members[f"{ours}_issuer_chain"])
        return web.Response(text=body, content_type="application/json", headers={header: chain})

    async def _pck_crl(self, request: web.Request) -> web.Response:
        if dict(request.query) != {"ca": self.intel.ca, "encoding": "der"}:
            raise web.HTTPBadRequest
        members = self.intel.members()
        headers = {"SGX-PCK-CRL-Issuer-Chain": quote(members["pck_crl_issuer_chain"])}
        return web.Response(body=bytes.fromhex(members["pck_crl"]), headers=headers)

    async def _root_crl(self, _: web.Request) -> web.Response:
        return web.Response(body=bytes.fromhex(self.intel.members()["root_ca_crl"]))

    async def _rim(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        rim = base64.b64encode(self._piece(CollateralKind.GPU_RIM, name)).decode()
        return web.json_response({"id": name, "rim": rim, "sha256": "", "last_updated": "2026-05-01T00:00:00Z"})

    async def _ocsp(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/ocsp-request"
        answer = self._piece(CollateralKind.GPU_OCSP, (await request.read()).hex())
        return web.Response(body=answer, content_type="application/ocsp-response")

    async def _nras(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.read())
        kind = request.match_info["kind"]
        assert kind in ("gpu", "switch")
        assert set(asked) == {"nonce", "arch", "claims_version", "evidence_list"}
        assert asked["claims_version"] == {"gpu": "4.0", "switch": "3.0"}[kind]
        nonce = Nonce(bytes.fromhex(asked["nonce"]))
        body = nras_answer(nonce, kind="gpu" if kind == "gpu" else "switch", count=len(asked["evidence_list"]))
        return web.Response(body=body, content_type="application/json")

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.Response(body=jwks(), content_type="application/json")


def constantly(status: int, body: bytes = b"canary", headers: Mapping[str, str] | None = None) -> Answer:
    """The same answer to everything."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return answer
