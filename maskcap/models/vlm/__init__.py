"""Vision-language models behind one small interface (`interface.VLM`)."""
