"""The boot order in a machine's XML: XML in, XML out."""
