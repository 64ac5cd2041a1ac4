"""Every message that crosses a process or a network: codecs, size caps. No input or output here."""
