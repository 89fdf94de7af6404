"""From texts and tables to documents, and from documents to windows of tokens."""
