"""Scriptivox's API: uploads, jobs, results and captions (`docs/apis/scriptivox.md`)."""
