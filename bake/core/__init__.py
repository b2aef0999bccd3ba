"""Values that every other room uses. numpy only: no files, no sockets, no model libraries."""
