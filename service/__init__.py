"""HTTP: paragraphs in, labels out."""
