"""`data.format: sa2va`: the samples and batches that Sa2VA's own training code takes."""

from maskcap.data.sa2va.collate import collate_sa2va
from maskcap.data.sa2va.options import Sa2VAOptions
from maskcap.data.sa2va.sample import make_sa2va_sample

__all__ = ["Sa2VAOptions", "collate_sa2va", "make_sa2va_sample"]
