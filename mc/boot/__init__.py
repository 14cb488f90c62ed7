"""What boots next: domain XML in, domain XML out, and nothing of libvirt's in between.

`order` is what others call. It knows the rules; `domain` reads and writes boot elements, `note`
keeps what the controller remembers in the machine's metadata, `devices` names what can boot, and
`splice` changes a text without touching the rest of it.
"""
