"""Records in; HTML, Markdown and terminal tables out."""
