"""AudioToTextAI's API: jobs of files and links, and their results (`docs/apis/audiototext.md`)."""
