"""The guest: one boot sector that reports on COM1 and obeys keys sent to COM1.

It prints `booted BANNER`, and from then on looks every 55 ms (the PC's timer tick, so an idle guest
costs no CPU) for a key from the serial line and for a press of the ACPI power button.
"""

import enum

ORIGIN = 0x7C00
"""Where a PC BIOS loads the boot sector."""

SECTOR = 512
"""Bytes of a boot sector; its last two are the signature 55 AA."""

CODE_LIMIT = 446
"""Bytes before the partition table, which stays empty."""

BOOTED = "booted "
"""What the guest prints before its banner."""


class Key(enum.StrEnum):
    """What the guest does on a byte from COM1; it first prints the member's name in lower case."""

    REBOOT = "r"
    """Resets the machine from within (port 0xcf9): the QEMU process stays."""
    OFF = "o"
    """Powers off (ACPI S5) without being asked by the power button."""
    PANIC = "p"
    """Reports a panic to pvpanic (port 0x505): libvirt's state becomes `crashed`."""
    SLEEP = "s"
    """Enters ACPI S3 (`pmsuspended`). It has no waking vector: waking boots it again."""
    WRITE = "w"
    """Writes the first sector of the second disk, then prints `written` or `not written`."""


# Hexadecimal machine code, 16-bit real mode. `@label` is an 8-bit distance (short jump), `+label` a
# 16-bit distance (call), `=label` a 16-bit address. A `;` begins the assembly of the line.
# ACPI registers from the PM base: +0 PM1_STS, +2 PM1_EN (power button: bit 8 of both), +4 PM1_CNT
# (bit 13 enters the sleep type in bits 10-12; QEMU's types: 0 is S5, 1 is S3).
PROGRAM = """
start:      31 C0               ; xor ax, ax
            8E D8               ; mov ds, ax
            8E C0               ; mov es, ax
            8E D0               ; mov ss, ax
            BC 00 7C            ; mov sp, 0x7c00
            FC                  ; cld

; The PM base is register 0x40 of ICH9 (00:1f.0, id 8086:2918), or else of PIIX4 (00:01.3).
            66 B8 00 F8 00 80   ; mov eax, 0x8000f800
            E8 +pci_read        ; call pci_read
            66 3D 86 80 18 29   ; cmp eax, 0x29188086
            66 B8 40 F8 00 80   ; mov eax, 0x8000f840
            74 @chipset         ; je chipset
            66 B8 40 0B 00 80   ; mov eax, 0x80000b40
chipset:    E8 +pci_read        ; call pci_read
            25 C0 FF            ; and ax, 0xffc0
            A3 =pm_base         ; mov [pm_base], ax

; While PM1_EN is clear the chipset does not even record a press.
            80 3E =obeys 00     ; cmp byte [obeys], 0
            74 @ready           ; je ready
            92                  ; xchg ax, dx
            83 C2 02            ; add dx, 2
            B8 00 01            ; mov ax, 0x0100
            EF                  ; out dx, ax
; The banner comes last: who has read it may press the button.
ready:      BE =banner          ; mov si, banner
            E8 +print           ; call print
            EB @idle            ; jmp idle

reboot:     BE =says_reboot     ; mov si, says_reboot
            E8 +print           ; call print
            BA F9 0C            ; mov dx, 0xcf9
            B0 06               ; mov al, 6
            EE                  ; out dx, al
            EB @idle            ; jmp idle

panic:      BE =says_panic      ; mov si, says_panic
            E8 +print           ; call print
            BA 05 05            ; mov dx, 0x505
            B0 01               ; mov al, 1
            EE                  ; out dx, al
            EB @idle            ; jmp idle

write:      BE =says_write      ; mov si, says_write
            E8 +print           ; call print
            B8 01 03            ; mov ax, 0x0301  (write one sector)
            B9 01 00            ; mov cx, 1       (cylinder 0, sector 1)
            BA 81 00            ; mov dx, 0x0081  (head 0, second hard disk)
            BB 00 7C            ; mov bx, 0x7c00
            CD 13               ; int 0x13
            BE =says_written    ; mov si, says_written
            73 @report          ; jnc report
            BE =says_failed     ; mov si, says_failed
report:     E8 +print           ; call print

idle:       FB                  ; sti
            F4                  ; hlt
            BA FD 03            ; mov dx, 0x3fd
            EC                  ; in al, dx
            A8 01               ; test al, 1
            74 @no_key          ; jz no_key
            BA F8 03            ; mov dx, 0x3f8
            EC                  ; in al, dx
            3C 72               ; cmp al, 'r'
            74 @reboot          ; je reboot
            3C 6F               ; cmp al, 'o'
            74 @off             ; je off
            3C 70               ; cmp al, 'p'
            74 @panic           ; je panic
            3C 73               ; cmp al, 's'
            74 @sleep           ; je sleep
            3C 77               ; cmp al, 'w'
            74 @write           ; je write
no_key:     80 3E =obeys 00     ; cmp byte [obeys], 0
            74 @idle            ; je idle
            8B 16 =pm_base      ; mov dx, [pm_base]
            ED                  ; in ax, dx
            F6 C4 01            ; test ah, 1
            74 @idle            ; jz idle
            BE =says_button     ; mov si, says_button
            EB @power_off       ; jmp power_off

off:        BE =says_off        ; mov si, says_off
power_off:  E8 +print           ; call print
            B8 00 20            ; mov ax, 0x2000
            EB @pm_control      ; jmp pm_control
sleep:      BE =says_sleep      ; mov si, says_sleep
            E8 +print           ; call print
            B8 00 24            ; mov ax, 0x2400
pm_control: 8B 16 =pm_base      ; mov dx, [pm_base]
            83 C2 04            ; add dx, 4
            EF                  ; out dx, ax
            EB @idle            ; jmp idle

pci_read:   BA F8 0C            ; mov dx, 0xcf8
            66 EF               ; out dx, eax
            B2 FC               ; mov dl, 0xfc
            66 ED               ; in eax, dx
            C3                  ; ret

print:      AC                  ; lodsb
            84 C0               ; test al, al
            74 @printed         ; jz printed
            50                  ; push ax
            BA FD 03            ; mov dx, 0x3fd
transmit:   EC                  ; in al, dx
            A8 20               ; test al, 0x20
            74 @transmit        ; jz transmit
            58                  ; pop ax
            B2 F8               ; mov dl, 0xf8
            EE                  ; out dx, al
            EB @print           ; jmp print
printed:    C3                  ; ret

pm_base:    00 00
"""

WORDS = {
    "says_button": "power button",
    "says_off": "off",
    "says_sleep": "sleep",
    "says_reboot": "reboot",
    "says_panic": "panic",
    "says_write": "write",
    "says_written": "written",
    "says_failed": "not written",
}


def banner_line(banner: str) -> str:
    """The line, without its newline, that a guest with this banner prints at every boot."""
    return BOOTED + banner


def banners(printed: str) -> list[str]:
    """The banners of all boots, in order, in what guests have printed on a serial line.

    A banner that is still being printed is not among them, and one that was cut short by the end of
    its QEMU is not taken for a part of the next.
    """
    lines = printed.split("\n")[:-1]
    return [line.rpartition(BOOTED)[2] for line in lines if BOOTED in line]


def boot_sector(banner: str = "disk", *, obeys_button: bool = True) -> bytes:
    """The 512 bytes of the guest.

    A guest that does not obey the button never enables it and runs on; it still obeys keys.
    Raises ValueError when the banner is not ASCII or too long for the sector.
    """
    data = {"obeys": bytes([obeys_button]), "banner": _line(banner_line(banner))}
    data |= {label: _line(text) for label, text in WORDS.items()}
    code = _assemble(PROGRAM, data)
    if len(code) > CODE_LIMIT:
        raise ValueError(f"banner {banner!r} is {len(code) - CODE_LIMIT} bytes too long")
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _line(text: str) -> bytes:
    """The text as the print routine wants it: a newline and a zero byte at the end."""
    return text.encode("ascii") + b"\n\0"


def _assemble(program: str, data: dict[str, bytes]) -> bytes:
    """Machine code of the listing, followed by the data; data's keys are labels too."""
    code = bytearray()
    labels: dict[str, int] = {}
    references: list[tuple[int, str]] = []
    for line in program.splitlines():
        for token in line.partition(";")[0].split():
            if token.endswith(":"):
                labels[token[:-1]] = len(code)
            elif token[0] in "@+=":
                references.append((len(code), token))
                code += bytes(1 if token[0] == "@" else 2)
            else:
                code.append(int(token, 16))
    for label, value in data.items():
        labels[label] = len(code)
        code += value
    for place, token in references:
        value = _reference(token[0], place, labels[token[1:]])
        code[place : place + len(value)] = value
    return bytes(code)


def _reference(kind: str, place: int, target: int) -> bytes:
    """The bytes at place that refer to target; a distance counts from the byte after itself."""
    match kind:
        case "@":
            return (target - place - 1).to_bytes(1, "little", signed=True)
        case "+":
            return (target - place - 2).to_bytes(2, "little", signed=True)
        case _:
            return (ORIGIN + target).to_bytes(2, "little")
