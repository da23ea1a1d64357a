"""Reading runs from disk, without what must not be published."""
