"""Privocio's API: transcriptions that are waited for, or come segment by segment (`docs/apis/privocio.md`)."""
