"""Crystal types: space group, cell and sites, and crystals known to have them.

A line of the tables reads ``name | family | space group | a b c [α β γ] | sites | crystals``. Sites
are ``A x y z; B x y z`` in the cell of the first setting; A, B, ... take the place of elements. The
crystals are formulas whose elements stand for A, B, ... in the order written, followed by known
lattice constants a, b, c in Å where the size should not be guessed from radii. Indented lines go on
with the line before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal


@dataclass(frozen=True)
class Known:
    """A crystal of a type: its elements for A, B, ..., and lengths a, b, c (Å) if known."""

    elements: tuple[str, ...]
    lengths: tuple[float, ...]


@dataclass(frozen=True)
class Prototype:
    """A crystal type; `family` is empty where the elements decide it."""

    name: str
    family: str
    space_group: int
    cell: tuple[float, ...]
    sites: tuple[tuple[str, tuple[float, ...]], ...]
    known: tuple[Known, ...]

    @property
    def letters(self) -> str:
        """The kinds of site, each once: ``"AB"``."""
        return "".join(dict.fromkeys(letter for letter, _ in self.sites))

    def build(self, elements: tuple[str, ...], lengths: tuple[float, ...] = ()) -> Atoms:
        """Primitive cell with `elements` on the sites A, B, ...

        Lengths that are not given follow from those that are, by the proportions of the type.
        """
        own = np.array(self.cell[:3])
        given = np.array(lengths or own[:1])
        scaled = own * given[0] / own[0]
        scaled[: len(given)] = given
        symbols = dict(zip(self.letters, elements, strict=True))
        return crystal(
            [symbols[letter] for letter, _ in self.sites],
            [place for _, place in self.sites],
            spacegroup=self.space_group,
            cellpar=[*scaled, *self.cell[3:]],
            primitive_cell=True,
        )


def _number(word: str) -> float:
    """Read ``0.25`` or ``1/3``."""
    top, _, bottom = word.partition("/")
    return float(top) / float(bottom or 1)


def _parse(line: str) -> Prototype:
    name, family, group, cell, sites, known = (part.strip() for part in line.split("|"))
    lengths = tuple(float(word) for word in cell.split())
    lengths = lengths if len(lengths) > 1 else lengths * 3
    places = []
    for site in sites.split(";"):
        letter, *place = site.split()
        places.append((letter, tuple(_number(word) for word in place)))
    crystals = []
    for formula, numbers in re.findall(r"([A-Z][A-Za-z]*)((?: [\d.]+)*)", known):
        elements = tuple(re.findall("[A-Z][a-z]?", formula))
        crystals.append(Known(elements, tuple(float(word) for word in numbers.split())))
    angles = lengths[3:] or ((90.0, 90.0, 120.0) if 143 <= int(group) <= 194 else (90.0,) * 3)
    return Prototype(name, family, int(group), lengths[:3] + angles, tuple(places), tuple(crystals))


_ELEMENTS = """
fcc|metal|225|4.05|A 0 0 0|Al 4.05 Cu 3.61 Ag 4.09 Au 4.08 Ni 3.52 Pd 3.89 Pt 3.92 Rh 3.80 Ca 5.58
  Sr 6.08 Pb 4.95 La 5.30 Tl 4.85 Sc Ti Zn Y Mo Ba Na K Mg Li
bcc|metal|229|3.0|A 0 0 0|Li 3.49 Na 4.23 K 5.23 Rb 5.59 Cs 6.05 V 3.03 Nb 3.30 Ta 3.31 Cr 2.88 Mo
  3.15 W 3.16 Fe 2.87 Ba 5.02 Ti 3.3 Zr 3.6 Mg Al Ca Sc Y Mn Tl Hf
hcp|metal|194|3.2 3.2 5.2|A 1/3 2/3 1/4|Be 2.29 2.29 3.58 Mg 3.21 3.21 5.21 Sc 3.31 3.31 5.27 Y
  3.65 3.65 5.73 Ti 2.95 2.95 4.68 Zr 3.23 3.23 5.15 Hf 3.19 3.19 5.05 Tc 2.74 2.74 4.40 Re 2.76
  2.76 4.46 Ru 2.71 2.71 4.28 Os 2.74 2.74 4.32 Co 2.51 2.51 4.07 Zn 2.66 2.66 4.95 Cd 2.98 2.98
  5.62 Tl 3.46 3.46 5.52 Li Al Na Cu
dhcp|metal|194|3.77 3.77 12.16|A 0 0 0; A 1/3 2/3 1/4|La 3.77 3.77 12.16 Y Sc Li Na Ca
simple cubic|metal|221|3.34|A 0 0 0|Bi 3.2 Sb 3.0 As 2.55 P 2.4 Ca 2.7 Te 3.0 K Mg Al Ga Cs
omega|metal|191|4.6 4.6 2.82|A 0 0 0; A 1/3 2/3 1/2|Ti 4.6 4.6 2.82 Zr 5.04 5.04 3.13 Hf Sc Nb
In type|metal|139|3.25 3.25 4.95|A 0 0 0|In 3.25 3.25 4.95 Ga 2.8 2.8 4.45 Al
Ga type|metal|64|4.52 7.66 4.53|A 0 0.1549 0.081|Ga 4.52 7.66 4.53 Al In
Hg type|metal|166|3.46 3.46 6.68|A 0 0 0|Hg 3.46 3.46 6.68 Cd Zn
beta-W|metal|223|5.05|A 0 0 0; A 1/4 0 1/2|W 5.05 Cr Ta Ti
diamond|covalent|227|5.43|A 0 0 0|C 3.567 Si 5.431 Ge 5.658 B P As Ga Se Al S N
lonsdaleite|covalent|194|3.86 3.86 6.3|A 1/3 2/3 0.0625|C 2.51 2.51 4.17 Si 3.86 3.86 6.31 Ge 4.0
  4.0 6.55
beta-Sn|covalent|141|5.83 5.83 3.18|A 0 0 0|Si 4.69 4.69 2.58 Ge 4.9 4.9 2.7 Ga As
A7|covalent|166|3.76 3.76 10.55|A 0 0 0.229|As 3.76 3.76 10.55 Sb 4.31 4.31 11.27 Bi 4.55 4.55
  11.86 P 3.4 3.4 8.8 Te N
A8|covalent|152|4.4 4.4 5.5|A 0.25 0 1/3|Se 4.37 4.37 4.95 Te 4.46 4.46 5.93 S 4.0 4.0 4.6
black P|layered|64|3.31 10.48 4.37|A 0 0.1034 0.0806|P 3.31 10.48 4.37 As 3.65 11.0 4.47 Sb N
graphite|layered|194|2.464 2.464 6.71|A 0 0 1/4; A 1/3 2/3 1/4|C 2.464 2.464 6.71 Si Ge B
graphite AA|layered|191|2.464 2.464 3.6|A 1/3 2/3 0|C 2.464 2.464 3.6 Si B
bc8|framework|206|6.64|A 0.1003 0.1003 0.1003|Si 6.64 Ge 6.93 C 4.45
K4|framework|214|4.1|A 1/8 1/8 1/8|C 4.12 Si 6.4 B P
diamond of tetrahedra|framework|227|7.0|A 0.0706 0.0706 0.0706|C 7.52 Si 11.0 P
solid dimer|molecular|64|7.1 8.2 4.3|A 0 0.155 0.118|I 7.14 9.69 4.69 Br 6.6 8.7 4.4 Cl 6.1 8.2 4.4
solid N|molecular|205|5.66|A 0.0555 0.0555 0.0555|N 5.66
fcc gas|molecular|225|5.3|A 0 0 0|Ar 5.31 Ne 4.43 He 4.2
"""

_INTERMETALLIC = """
CsCl metal||221|3.0|A 0 0 0; B .5 .5 .5|NiAl 2.89 FeAl 2.91 CoAl 2.86 CuZn 2.95 AgMg 3.31 TiFe 2.98
  TiNi 3.01 LiAg 3.17 MgSc 3.60 CaCd 3.83 ZrCo 3.19 RuAl 2.95 PdIn 3.25 YCu 3.48 SrMg 3.9 ScRh 3.21
  BePd 2.81 AuZn 3.13 HgMg 3.45 AgY 3.62 LaZn 3.76 AuCd 3.32 BeCu 2.70 ScAl 3.38
L10||123|2.8 2.8 3.7|A 0 0 0; B .5 .5 .5|TiAl 2.83 2.83 4.07 CuAu 2.80 2.80 3.67 FePt 2.72 2.72
  3.77 NiPt 2.70 2.70 3.58 MgIn 3.24 3.24 4.38 CdPd LiPb FePd CoPt
L12||221|3.9|A 0 0 0; B .5 .5 0|AuCu 3.75 AlNi 3.57 ScAl 4.10 SnCa 4.74 ZrAl 4.08 TiZn 3.93 PbCa
  4.90 TlCa 4.80 InLa 4.73 PtTi 3.91 FePt CdAg MgIn PbNa SnLa
D022||139|3.85 3.85 8.6|A 0 0 0; B 0 0 .5; B 0 .5 .25|TiAl 3.85 3.85 8.61 VAl 3.78 3.78 8.32 NbAl
  3.84 3.84 8.61 VNi TaAl
D019||194|5.8 5.8 4.65|A 1/3 2/3 1/4; B 5/6 2/3 1/4|AlTi 5.77 5.77 4.65 SnTi 5.92 5.92 4.76 WCo
  MgCd
B32||227|7.48|A 0 0 0; B .5 .5 .5|LiAl 6.37 LiGa 6.20 LiIn 6.79 NaIn 7.30 NaTl 7.48 LiZn 6.22 LiCd
  6.69
C11b||139|3.2 3.2 7.8|A 0 0 0; B 0 0 0.333|MoSi 3.20 3.20 7.85 WSi 3.21 3.21 7.83 ZrPd 3.40 3.40
  8.59 ZnTi CuZr AuTi
D03||225|6.0|A 0 0 0; B .25 .25 .25; B .5 .5 .5|AlFe 5.79 SiFe 5.65 SbCu 6.0 BiLi 6.72 SbLi 6.57
  HgLi InNa
Heusler||225|6.0|A 0 0 0; B .5 .5 .5; C .25 .25 .25|MnAlCu 5.95 TiAlNi 5.89 VAlFe 5.76 MnSiCo 5.65
  LiAlAg LiSnAu MgInLi ScSnPd NbAlRu ZrSnNi HfAlPd
half-Heusler|covalent|216|5.95|A .5 .5 .5; B .25 .25 .25; C 0 0 0|TiNiSn 5.93 ZrNiSn 6.11 LiZnAs
  5.94 LiMgN 4.97 LiZnP 5.75 NbCoSn 5.95 LiAlSi 5.93 MgCuSb 6.2 LiMgP 6.02 NaZnAs 5.9 TiCoSb 5.88
  VFeSb 5.8 ScPtSb 6.3 YPtBi 6.6 LaPtBi 6.8 LiCdP 6.1 LiZnN 4.9 LiMgAs 6.2 AlBeB HfNiSn NbFeSb
  TaIrGe
C15||227|7.4|A 0 0 0; B 5/8 5/8 5/8|MgCu 7.03 CaAl 8.02 ZrV 7.44 YAl 7.86 LaNi 7.39 KBi 9.5 CsBi
  9.75 NaAu 7.80 TiCr 6.94 ScIr 7.35 BaPt SrRh LaMg PbAu ZrMo
C14||194|5.2 5.2 8.5|A 1/3 2/3 0.062; B 0 0 0; B 0.83 0.66 1/4|MgZn 5.22 5.22 8.57 CaMg 6.25 6.25
  10.14 TiMn ScRe CaLi KNa ZrRe
A15||223|4.7|A 0 0 0; B 1/4 0 1/2|SiV 4.72 SnNb 5.29 AlNb 5.18 SiCr 4.56 GeNb 5.14 PtCr OsCr AuTi
  AlMo
CaCu5||191|5.1 5.1 4.1|A 0 0 0; B 1/3 2/3 0; B .5 0 .5|CaCu 5.09 5.09 4.09 LaNi 5.02 5.02 3.98 YCo
  4.94 4.94 3.98 SrPd BaAu CaZn
Ni2In||194|4.2 4.2 5.2|A 1/3 2/3 3/4; B 0 0 0; B 1/3 2/3 1/4|InNi 4.18 4.18 5.13 SnNi GeCo AlZr
CrB||63|3.0 7.9 2.95|A 0 0.146 1/4; B 0 0.44 1/4|CrB 2.97 7.86 2.93 CaSi 4.59 10.8 3.91 ZrNi 3.27
  9.94 4.10 CaGe 4.58 10.8 4.0 BaSn LaNi NbB ScGa YAl TaB CaSn LaAu
AlB2||191|3.1 3.1 3.3|A 0 0 0; B 1/3 2/3 .5|MgB 3.086 3.086 3.524 AlB 3.01 3.01 3.26 ZrB 3.17 3.17
  3.53 ScB 3.15 3.15 3.52 CaGa 4.32 4.32 4.32 CaSi 3.84 3.84 4.60 SrGa 4.35 4.35 4.74 BaGa LaGa
  LaCu LiB CrB TaB YSi BaSi
ThCr2Si2||139|4.0 4.0 10.0|A 0 0 0; B 0 .5 .25; C 0 0 0.37|CaCuSi SrZnSb BaFeAs 3.96 3.96 13.0
  SrPdGe CaNiP 3.9 3.9 9.4 LaNiGe YRuSi BaZnSn SrNiAs LaCuSi CaAlGe CaAlSi
CaBe2Ge2||129|4.0 4.0 9.9|A 0 .5 0.25; B 0 0 0; C 0 0 .5; C 0 .5 .63; B 0 .5 .88|CaBeGe LaPtSi
B20||198|4.5|A 0.137 0.137 0.137; B 0.842 0.842 0.842|FeSi 4.49 CoSi 4.45 CrSi 4.62 RhSi 4.68 AuBe
  4.66 PdGa 4.9 MnSi 4.56 PtAl 4.86 CrGe
BaAl4||139|4.4 4.4 11.0|A 0 0 0; B 0 .5 .25; B 0 0 0.38|BaAl 4.57 4.57 11.28 CaAl 4.35 4.35 11.1
  SrGa 4.45 4.45 10.7 BaIn LaAl SrAl CaGa
NaZintl||227|7.5|A 0 0 0; B .5 .5 .5|LiSi NaGa KAs
"""

_SIMPLE = """
rocksalt||225|5.6|A 0 0 0; B .5 .5 .5|LiF 4.03 LiCl 5.13 LiBr 5.50 LiI 6.0 NaF 4.63 NaCl 5.64 NaI
  6.47 KF 5.35 KCl 6.29 KBr 6.60 KI 7.07 RbF 5.64 RbCl 6.58 RbBr 6.87 RbI 7.34 CsF 6.02 MgO 4.21
  CaO 4.81 SrO 5.16 BaO 5.52 MgS 5.20 CaS 5.69 CaSe 5.91 CaTe 6.35 SrS 6.02 SrSe 6.23 SrTe 6.66 BaS
  6.39 BaSe 6.6 BaTe 7.0 MgSe 5.45 CdO 4.70 AgBr 5.77 AgF 4.92 PbSe 6.12 PbTe 6.46 SnTe 6.33 GeTe
  6.0 TiN 4.24 VC 4.17 VN 4.14 ZrC 4.70 ZrN 4.58 NbC 4.47 NbN 4.39 HfC 4.64 HfN 4.53 TaC 4.46 YN
  4.88 LaN 5.30 ScP 5.31 ScAs 5.49 YSb 6.16 LaBi 6.58 LaP 6.0 YAs 5.8 FeO 4.33 CoO 4.26 TiO 4.2 VO
  4.1 MnS 5.2 MnSe 5.46 CuO NbO 4.4 SnAs 5.7 SnSb 6.1 ScSb YS 5.5 LaS 5.85 ZrS 5.2 BiSe AgSb
CsCl||221|4.1|A 0 0 0; B .5 .5 .5|CsCl 4.12 CsI 4.57 TlCl 3.83 TlBr 3.97 TlI 4.2 RbCl 3.7 CaO CsAu
  4.26 RbAu 4.1 KF BaO
zincblende||216|5.4|A 0 0 0; B .25 .25 .25|BN 3.615 BAs 4.78 AlN 4.38 AlP 5.46 AlAs 5.66 GaN 4.50
  GaP 5.45 GaAs 5.65 InN 4.98 InP 5.87 InAs 6.06 InSb 6.48 ZnO 4.62 ZnS 5.41 ZnTe 6.10 CdSe 6.05
  CdTe 6.48 CuCl 5.42 CuBr 5.69 CuI 6.05 BeO 3.81 BeS 4.86 BeSe 5.14 BeTe 5.62 SiGe 5.54 AgI 6.47
  MgTe 6.42 HgTe 6.46 HgS 5.85 CGe 4.6 SnGe MnS MnTe CuF MgS LiF BSb 5.2
wurtzite||186|3.8 3.8 6.2|A 1/3 2/3 0; B 1/3 2/3 .376|AlN 3.11 3.11 4.98 GaN 3.19 3.19 5.19 ZnO
  3.25 3.25 5.207 ZnS 3.82 3.82 6.26 BeO 2.70 2.70 4.38 InN 3.54 3.54 5.70 BN 2.55 2.55 4.20 CdSe
  4.30 4.30 7.01 AgI 4.59 4.59 7.51 MgTe CuCl AlP GaAs InP MnS
NiAs||194|3.6 3.6 5.0|A 0 0 0; B 1/3 2/3 1/4|NiAs 3.60 3.60 5.01 CoSb 3.87 3.87 5.19 FeSe 3.62 3.62
  5.92 CrTe 3.98 3.98 6.21 TiS 3.30 3.30 6.38 VS 3.36 3.36 5.81 FeS 3.45 3.45 5.67 CoTe 3.88 3.88
  5.36 NiTe PtSb 4.13 4.13 5.47 PtSn 4.10 4.10 5.43 AuSn 4.32 4.32 5.52 PdSb IrSb MnAs 3.7 3.7 5.7
  MnBi NiBi LaS RhBi ZrTe
hBN type|layered|194|2.5 2.5 6.66|A 1/3 2/3 1/4; B 1/3 2/3 3/4|BN 2.504 2.504 6.66 AlN GaN BeO CB
  ZnO GeC BeS MgO
WC||187|2.9 2.9 2.84|A 0 0 0; B 1/3 2/3 .5|WC 2.91 2.91 2.84 WN MoC RuC OsN TaN 2.93 2.93 2.88 NbS
  MoP TiS ZrTe IrC
PtS||131|3.47 3.47 6.1|A 0 .5 0; B 0 0 .25|PtS 3.47 3.47 6.11 PtO 3.08 3.08 5.34 PdO 3.04 3.04 5.33
  CuO PdS NiS AgO
TlI|layered|63|4.6 12.9 5.2|A 0 .392 1/4; B 0 .133 1/4|TlI 4.57 12.92 5.24 InBr InCl TlF SnS InI
GeS|layered|62|11.2 4.0 4.4|A .12 1/4 .11; B .855 1/4 .49|GeS 10.47 3.64 4.30 GeSe 10.82 3.83 4.39
  SnS 11.2 3.98 4.33 SiS SiSe GeTe PAs
PbO|layered|129|3.97 3.97 5.02|A 0 .5 .237; B 0 0 0|PbO 3.97 3.97 5.02 SnO 3.80 3.80 4.84 FeSe 3.77
  3.77 5.52 FeS FeTe TiB GeO
PbO anti|layered|129|3.8 3.8 5.5|A 0 0 0; B 0 .5 .26|FeSe 3.77 3.77 5.52 FeS 3.68 3.68 5.03 FeTe
  3.82 3.82 6.27 CoSe NiSe
tenorite||15|4.68 3.42 5.13 90 99.5 90|A .25 .25 0; B 0 .418 .25|CuO 4.68 3.42 5.13 AgO CuS
NbO type|framework|221|4.2|A .5 .5 0; B .5 0 0|NbO 4.21 VO TaO TiN MoC
GaSe|layered|194|3.75 3.75 15.9|A 1/3 2/3 .173; B 1/3 2/3 .602|GaSe 3.75 3.75 15.95 GaS 3.59 3.59
  15.5 InSe 4.0 4.0 16.6 GaTe AlS InTe
fluorite||225|5.46|A 0 0 0; B .25 .25 .25|CaF 5.46 SrF 5.80 BaF 6.20 CdF 5.39 PbF 5.94 OLi 4.62 ONa
  5.55 OK 6.44 SLi 5.71 SNa 6.53 SK 7.39 SeLi 6.0 SeNa 6.81 TeLi 6.5 TeNa 7.31 TeK 8.15 SiMg 6.35
  GeMg 6.39 SnMg 6.76 PbMg 6.81 CBe 4.34 HfO 5.08 CoSi 5.37 NiSi 5.41 PRh 5.50 PIr 5.54 AuAl 6.0
  PtAl 5.91 PtSn 6.43 SrCl 6.98 BaCl 7.3 HgF 5.54 NiMg SiBe OTi PbO 5.35
rutile||136|4.6 4.6 2.96|A 0 0 0; B .305 .305 0|TiO 4.594 4.594 2.959 SnO 4.737 4.737 3.186 MgF
  4.62 4.62 3.05 RuO 4.49 4.49 3.11 VO 4.55 4.55 2.85 PbO 4.95 4.95 3.38 IrO 4.50 4.50 3.15 CrO
  4.42 4.42 2.92 MnO 4.40 4.40 2.87 FeF 4.70 4.70 3.31 MnF 4.87 4.87 3.31 NiF 4.65 4.65 3.08 CoF
  4.70 4.70 3.18 PdF 4.96 4.96 3.39 TaO 4.71 4.71 3.06 WO 4.9 4.9 2.8 NbO 4.84 4.84 3.0 CaCl 6.3
  6.3 4.2 OsO 4.5 4.5 3.18 PtO MgCl AlO
anatase||141|3.78 3.78 9.51|A 0 0 0; B 0 0 .208|TiO 3.78 3.78 9.51 SnO ZrO HfO VO
pyrite||205|5.4|A 0 0 0; B .385 .385 .385|FeS 5.418 CoS 5.54 NiS 5.69 RuS 5.61 PtAs 5.97 PtP 5.70
  PtSb 6.44 AuSb 6.66 OsSe 5.95 RhSe 6.0 MnTe 6.9 CuS 5.79 PdAs 5.98 PtBi ZnS NiP
marcasite||58|4.44 5.42 3.39|A 0 0 0; B .2 .378 0|FeS 4.44 5.42 3.39 FeAs 5.30 5.98 2.88 FeSb 5.83
  6.53 3.19 CoTe 5.32 6.31 3.89 FeP 4.97 5.66 2.72 NiSb CrSb RuP OsSb
CaC2||139|3.9 3.9 6.4|A 0 0 0; B 0 0 .405|CaC 3.88 3.88 6.38 SrC 4.12 4.12 6.69 BaC 4.39 4.39 7.07
  BaO 3.81 3.81 6.84 KO 4.03 4.03 6.70 RbO 4.24 4.24 7.03 SrO LaC 3.93 3.93 6.57 CaO NaO LaN BaN
  SrN YC
CdI2|layered|164|3.8 3.8 6.2|A 0 0 0; B 1/3 2/3 .25|MgCl 3.64 3.64 5.93 CdI 4.24 4.24 6.84 TiS 3.41
  3.41 5.70 TiSe 3.54 3.54 6.01 TiTe 3.77 3.77 6.5 ZrS 3.66 3.66 5.82 ZrSe 3.77 3.77 6.14 HfS 3.63
  3.63 5.86 HfSe 3.75 3.75 6.16 SnS 3.65 3.65 5.90 SnSe 3.81 3.81 6.14 MgBr 3.81 3.81 6.26 MgI 4.15
  4.15 6.88 CaI 4.48 4.48 6.96 PbI 4.56 4.56 6.99 VSe 3.35 3.35 6.1 TaS 3.36 3.36 5.9 NiTe 3.85
  3.85 5.27 CoTe 3.80 3.80 5.41 PdTe 4.04 4.04 5.13 PtS 3.54 3.54 5.04 PtSe 3.73 3.73 5.08 IrTe
  3.93 3.93 5.39 FeBr MnBr 3.87 3.87 6.27 CoI NiI ZnI TlTe AlSi
CdCl2|layered|166|3.7 3.7 17.5|A 0 0 0; B 0 0 .256|CdCl 3.85 3.85 17.46 MgCl 3.63 3.63 17.66 MgBr
  ZnBr NiBr 3.7 3.7 18.3 FeCl 3.6 3.6 17.5 CdBr 3.95 3.95 18.7 MnCl 3.71 3.71 17.59 CoCl NiI TaS
  NbS
2H-MX2|layered|194|3.2 3.2 12.3|A 1/3 2/3 1/4; B 1/3 2/3 .621|MoS 3.16 3.16 12.30 MoSe 3.29 3.29
  12.9 WS 3.15 3.15 12.32 WSe 3.28 3.28 12.96 NbS 3.32 3.32 11.95 NbSe 3.44 3.44 12.55 TaS 3.31
  3.31 12.1 MoTe 3.52 3.52 13.97 WTe ReSe HfTe CrS TiTe VS
Bi2Te3|layered|166|4.3 4.3 30|A 0 0 .4; B 0 0 0; B 0 0 .21|BiTe 4.38 4.38 30.5 BiSe 4.14 4.14 28.6
  SbTe 4.26 4.26 30.4 AsTe InSe GaSe SbS InTe
BiI3|layered|148|6.9 6.9 20.5|A 0 0 .333; B .333 .99 .08|BiI 7.52 7.52 20.7 CrCl 5.96 5.96 17.3 CrI
  6.87 6.87 19.8 AlCl ScCl 6.38 6.38 17.8 SbI YBr FeCl 6.07 6.07 17.4 InBr RhBr
Cu2Sb|layered|129|4.0 4.0 6.1|A 0 0 0; B 0 .5 .27; C 0 .5 .7|CuCuSb 4.0 4.0 6.1 LiFeAs 3.77 3.77
  6.36 NaFeAs 3.95 3.95 7.04 MnAlGe CuMgAs NaMnP
PbFCl|layered|129|4.1 4.1 7.2|A 0 0 0; B 0 .5 .2; C 0 .5 .65|FPbCl 4.11 4.11 7.23 OBiCl 3.89 3.89
  7.37 FBaCl 4.39 4.39 7.23 FSrCl 4.13 4.13 6.96 OBiBr 3.92 3.92 8.1 OLaCl 4.12 4.12 6.88 OYCl 3.9
  3.9 6.6 SiZrS 3.54 3.54 8.06 FCaCl 3.89 3.89 6.82 GeHfS HCaCl HSrBr NTaO OBiI
BiTeI|layered|156|4.3 4.3 6.85|A 0 0 0; B 2/3 1/3 .25; C 1/3 2/3 .7|BiTeI 4.34 4.34 6.85 BiTeBr
  4.27 4.27 6.49 SbTeI BiSeCl MoSSe WSeTe
LiCoO2|layered|166|2.82 2.82 14.05|A 0 0 .5; B 0 0 0; C 0 0 .26|LiCoO 2.82 2.82 14.05 NaCrO 2.97
  2.97 15.97 LiNiO 2.88 2.88 14.19 NaTiS LiCrS NaInO KYO LiVO 2.84 2.84 14.7 NaScO 3.16 3.16 16.3
  NaBiSe TlBiTe RbScO KCrS LiAlO 2.8 2.8 14.2 AgBiSe TlBiSe NaCoO 2.89 2.89 15.6 LiScO LiMgN
delafossite|layered|166|2.9 2.9 17.1|A 0 0 0; B 0 0 .5; C 0 0 .11|CuAlO 2.86 2.86 16.95 CuGaO 2.98
  2.98 17.17 AgInO 3.28 3.28 18.9 PdCoO 2.83 2.83 17.74 PtCoO 2.82 2.82 17.8 CuCrO 2.98 2.98 17.1
  AgCrO CuYO CuScO
CaSi2|layered|164|3.85 3.85 5.1|A 0 0 0; B 1/3 2/3 .42|CaSi CaGe BaSi SrGe
LiC6|layered|191|4.3 4.3 3.7|A 0 0 0; B 1/3 0 .5|LiC 4.31 4.31 3.7 CaC 4.33 4.33 4.5 SrC 4.32 4.32
  4.95 BaC 4.30 4.30 5.25 KC 4.3 4.3 5.4
LiBC|layered|194|2.75 2.75 7.06|A 0 0 0; B 1/3 2/3 1/4; C 1/3 2/3 3/4|LiBC 2.75 2.75 7.06 NaBC
  CaZnSi KHgSb 4.78 4.78 10.2 KZnAs 4.25 4.25 9.0 KZnP LaCuAs NaAuSn BaAgP LiBeN
MAX|layered|194|3.05 3.05 13.6|A 1/3 2/3 .086; B 1/3 2/3 3/4; C 0 0 0|TiAlC 3.05 3.05 13.6 TiAlN
  2.99 2.99 13.6 CrAlC 2.86 2.86 12.8 ZrInC 3.35 3.35 14.9 NbSnC 3.24 3.24 13.8 VGaC 2.93 2.93 12.8
  TiPbC HfTlC ScInC TaAlC
FeOCl|layered|59|3.3 3.78 7.92|A 0 .5 .115; B 0 0 .048; C 0 0 -.33|FeOCl 3.3 3.78 7.92 TiOCl 3.38
  3.79 8.03 TiNCl 3.26 3.94 7.8 VOCl AlOCl InOBr ZrNCl CrOCl
Li3N|layered|191|3.65 3.65 3.88|A 0 0 0; B 0 0 .5; B 1/3 2/3 0|NLi 3.65 3.65 3.88 PLi PNa NNa AsK
cuprite|framework|224|4.27|A .25 .25 .25; B 0 0 0|CuO 4.27 AgO 4.72 PbO AuS CuF
ReO3|framework|221|3.75|A 0 0 0; B .5 0 0|ReO 3.75 WO 3.77 ScF 4.01 AlF 3.58 NbF 3.90 MoF 3.85 NCu
  3.82 NNa 4.73 TaF 3.9 TiF 3.8 InF ZrF CrF MoO YF FeF 3.84 NRb ONa
VF3 type|framework|167|5.2 5.2 13.2|A 0 0 0; B .38 0 1/4|FeF 5.20 5.20 13.33 AlF 4.93 4.93 12.5 CrF
  4.98 4.98 13.2 GaF 5.0 5.0 13.0 ScF InF
corundum||167|4.76 4.76 12.99|A 0 0 .352; B .306 0 1/4|AlO 4.76 4.76 12.99 CrO 4.96 4.96 13.6 FeO
  5.03 5.03 13.75 TiO 5.15 5.15 13.64 GaO 4.98 4.98 13.43 VO 4.95 4.95 14.0 RhO InO
A-La2O3||164|3.94 3.94 6.13|A 1/3 2/3 .247; B 0 0 0; B 1/3 2/3 .645|LaO 3.94 3.94 6.13 YO BiO ScS
  AlSe
anti-La2O3||164|4.0 4.0 6.5|A 1/3 2/3 .63; B 0 0 0; B 1/3 2/3 .235|SbMg 4.57 4.57 7.23 BiMg 4.67
  4.67 7.40 AlC BiCa
Mg3Sb2 ternary||164|4.4 4.4 7.3|A 0 0 0; B 1/3 2/3 .63; C 1/3 2/3 .25|CaAlSi 4.13 4.13 7.15 CaZnSb
  4.44 4.44 7.46 CaMgSb 4.66 4.66 7.58 SrZnSb 4.50 4.50 7.72 CaMnBi BaMgSb CaBeN YAlGe SrCdP CaCdAs
  BaCdP KAlSn MgMgBi
PbCl2||62|7.6 4.5 9.0|A .25 1/4 .1; B .86 1/4 .07; B .48 1/4 .84|PbCl 7.62 4.53 9.05 BaCl SrBr SiCa
  7.7 4.8 9.0 PCo 5.65 3.51 6.61 SiCo 4.92 3.74 7.11
CaB6||221|4.15|A 0 0 0; B .2 .5 .5|CaB 4.15 SrB 4.19 LaB 4.15 BaB 4.27 YB 4.1 KB 4.23
"""

_TERNARY = """
perovskite||221|3.95|A 0 0 0; B .5 .5 .5; C .5 .5 0|SrTiO 3.905 KNbO 4.01 KTaO 3.99 NaNbO 3.95
  LaAlO 3.80 KMgF 3.99 KZnF 4.06 CsCaF 4.52 CsPbCl 5.60 CsPbBr 5.87 CsPbI 6.25 CsSnI 6.22 CsSnBr
  5.8 SrZrO 4.10 BaZrO 4.19 BaSnO 4.12 LiBaF 3.99 KNiF 4.01 LaNiO 3.83 NaWO 3.85 LaCrO 3.89 SrVO
  3.84 SrFeO 3.87 SrRuO 3.95 KMnF 4.19 KCoF 4.07 RbCaF 4.45 MgSiO 3.5 CaSiO 3.57 SrMoO 3.97 BaHfO
  4.17 YAlO 3.7 LaFeO 3.93 LaCoO 3.82 BiFeO 3.96 PbTiO 3.97 PbZrO 4.15 RbTaO CsGeCl 5.4 TlMnCl 5.02
  KIO 4.46 LaInO BaBiO 4.35 CsAuCl CsCdCl
antiperovskite||221|4.0|A .5 .5 .5; B 0 0 0; C .5 .5 0|CMgNi 3.81 CAlTi 4.16 CAlSc 4.40 NSnCa 4.95
  OPbCa 4.85 CZnMn 3.92 NAlTi NGeCa 4.76 NBiMg NSbSr OClLi 3.91 OBrNa 4.57 CSnFe NPbCa OBrLi 4.05
  NInSc CGaMn BRhSc 4.07 NGaCr
chalcopyrite||122|5.6 5.6 11.1|A 0 0 0; B 0 0 .5; C .24 1/4 1/8|CuInSe 5.78 5.78 11.6 CuGaS 5.35
  5.35 10.5 ZnSiP 5.40 5.40 10.44 CdGeAs 5.94 5.94 11.2 CuFeS 5.29 5.29 10.42 AgGaSe 5.99 5.99 10.9
  CuAlTe ZnSnSb MgSiP 5.72 5.72 10.1 AgInTe LiInTe BeSiN ZnGeP 5.46 5.46 10.7 CuInTe
stannite||121|5.4 5.4 10.7|A 0 0 0; B 0 0 .5; C 0 .5 .25; D .755 .755 .87|FeSnCuS 5.45 5.45 10.73
  ZnSnCuS 5.43 5.43 10.8 ZnGeCuSe CdSnAgSe MnSnCuS
K2NiF4|layered|139|3.9 3.9 13|A 0 0 0; B 0 0 .355; C 0 .5 0; C 0 0 .15|NiKF 4.01 4.01 13.08 TiSrO
  3.88 3.88 12.6 MgKF 3.98 3.98 13.2 CuLaO 3.81 3.81 13.2 ZrBaO SnBaO ZnKF MnKF RuSrO 3.87 3.87
  12.7
K2PtCl6||225|9.8|A 0 0 0; B .25 .25 .25; C .24 0 0|PtKCl 9.75 SiKF 8.13 SnCsI 11.65 TeRbCl 10.2
  GeCsF 9.02 ReKCl 9.8 TiKCl PdKCl 9.7 SnKBr SiNaF
elpasolite||225|8.2|A 0 0 0; B .5 .5 .5; C .25 .25 .25; D .255 0 0|NaAlKF 8.12 AgBiCsBr 11.2
  InAgCsCl 10.5 MgWSrO 7.9 ScNaCsCl 10.5 LiAlKF 7.85 NaYCsF 9.07 MgMoBaO 8.08 FeMoSrO 7.89
spinel||227|8.08|A 0 0 0; B 5/8 5/8 5/8; C .387 .387 .387|MgAlO 8.08 ZnAlO 8.09 MgInO CdInO 9.17
  MgScSe
ilmenite||148|5.08 5.08 14.1|A 0 0 .36; B 0 0 .15; C .32 .02 .245|MgTiO 5.05 5.05 13.9 MgSiO 4.73
  4.73 13.56 LiNbO 5.15 5.15 13.9 NaSbO 5.3 5.3 15.9 MgGeO 4.94 4.94 13.76 ZnSiO CdTiO LiIO
calcite||167|4.99 4.99 17.06|A 0 0 0; B 0 0 1/4; C .257 0 1/4|CaCO 4.99 4.99 17.06 MgCO 4.63 4.63
  15.0 NaNO 5.07 5.07 16.8 ZnCO 4.65 4.65 15.0 LiNO 4.69 4.69 15.2 ScBO 4.75 4.75 15.3 AlBO 4.46
  4.46 13.7 CdCO 4.92 4.92 16.3
scheelite||88|5.24 5.24 11.38|A 0 0 .5; B 0 0 0; C .2414 .1507 .0861|CaWO 5.24 5.24 11.38 SrMoO
  5.39 5.39 12.0 KReO 5.68 5.68 12.7 BaWO 5.61 5.61 12.7 LiYF 5.16 5.16 10.7 NaTcO KIO
zircon|framework|141|6.6 6.6 5.98|A 0 0 0; B 0 0 .5; C 0 .184 .32|ZrSiO 6.60 6.60 5.98 YPO 6.88
  6.88 6.02 ScPO 6.57 6.57 5.79 HfSiO 6.57 6.57 5.96 YVO 7.12 7.12 6.29 YAsO 7.04 7.04 6.25
"""

_FRAMEWORKS = """
quartz|framework|152|4.9 4.9 5.4|A .4697 0 1/3; B .4135 .2669 .4524|GeO 4.99 4.99 5.65 BeF 4.74
  4.74 5.19 SiS GeS ZnCl TiO SnO BeCl SiSe CO 4.0 4.0 4.7 AlN BeH ZnH SiO ZrO MgF
beta-quartz|framework|180|5.0 5.0 5.46|A .5 0 0; B .416 .208 1/6|BeF GeO SiS ZnBr CO BeCl PN AlF
  GeSe
cristobalite ideal|framework|227|7.2|A 0 0 0; B 1/8 1/8 1/8|BeF 6.7 SiS GeS BeCl ZnCl CO 5.7 CdCl
  TiO SnO ZnF BeH SiSe HgO
cristobalite|framework|92|4.98 4.98 6.95|A .3 .3 0; B .239 .104 .179|BeF 4.75 4.75 6.6 ZnBr GeS SiS
  BeH CO 3.6 3.6 5.9 ZnCl
cristobalite ordered|framework|82|4.34 4.34 6.64|A 0 0 0; B 0 .5 .25; C .14 .26 .13|BPO 4.34 4.34
  6.64 BAsO 4.47 4.47 6.8 AlPO 4.97 4.97 7.0 GaPO AlPS 5.67 5.67 9.1 BPS 5.6 5.6 9.0 AlAsO BeSO
  4.49 4.49 6.9 BeSeO ZnSO MnPO FePO ZnSiF CdGaS CdInSe 5.82 5.82 11 InPS ZnGaSe
stuffed cristobalite|framework|216|7.3|A 0 0 0; B .25 .25 .25; C .5 .5 .5; D 1/8 1/8 1/8|AlSiNaO
  7.3 GaSiNaO AlSiKO AlGeNaO BePNaO AlSiLiO ZnPLiO AlTiKS
stuffed cristobalite double|framework|227|7.7|A 0 0 0; B .5 .5 .5; C 1/8 1/8 1/8|AlKO 7.69 GaKO 7.9
  FeKO 7.96 AlNaO GaRbO AlLiS InKS FeCsO BeCaF ZnBaO
cyanide|framework|215|5.9|A 0 0 0; A .5 .5 .5; B .19 .19 .19; C .308 .308 .308|ZnCN 5.95 BeCN 5.34
  CdCN 6.3 MgCN 6.1 HgCN SiNB
tridymite|framework|194|5.0 5.0 8.2|A 1/3 2/3 .0625; B 1/3 2/3 1/4; B .5 0 0|BeF 4.75 4.75 7.8 SiS
  ZnCl GeS BeH
SiS2|framework|72|9.6 5.6 5.5|A 0 0 1/4; B .117 .208 0|SiS 9.55 5.60 5.54 SiSe 9.67 6.0 5.85 BeCl
  9.86 5.36 5.26 GeS GeSe BeI
Si2N2O|framework|36|8.84 5.47 4.83|A .176 .151 .28; B .218 .121 .63; C 0 .214 .22|SiNO 8.84 5.47
  4.83 GeNO 9.3 5.75 5.1 SiPS
beta-Si3N4|framework|176|7.6 7.6 2.9|A .174 .768 1/4; B 1/3 2/3 1/4; B .33 .03 1/4|SiN 7.61 7.61
  2.91 GeN 8.03 8.03 3.07 CN 6.4 6.4 2.4
skutterudite|framework|204|8.2|A 1/4 1/4 1/4; B 0 .34 .16|CoSb 9.04 CoP 7.71 IrP 8.02 CoAs 8.2 RhAs
  8.45
"""

_HYDRIDES = """
MH|hydride|225|4.1|A 0 0 0; B .5 .5 .5|LiH 4.08 NaH 4.88 KH 5.70 RbH 6.04 CsH 6.39 PdH 4.09 NiH
  3.73 TiH 4.1 CrH 3.85 MgH ScH YH AlH CuH VH ZrH LaH AgH PtH
MH zincblende|hydride|216|4.6|A 0 0 0; B .25 .25 .25|PdH CuH AgH TiH LiH BeH
MH CsCl|hydride|221|3.2|A 0 0 0; B .5 .5 .5|NaH LiH KH CsH 3.9 VH TaH
MH2|hydride|225|4.7|A 0 0 0; B .25 .25 .25|TiH 4.45 YH 5.20 LaH 5.66 ZrH 4.8 HfH 4.72 VH 4.27 NbH
  4.55 CaH MgH CrH 4.0 SrH BaH AlH
MH2 rutile|hydride|136|4.517 4.517 3.02|A 0 0 0; B .306 .306 0|MgH 4.517 4.517 3.02 ZnH BeH CaH
MH2 PbCl2|hydride|62|5.9 3.6 6.8|A .24 1/4 .11; B .355 1/4 .427; B .974 1/4 .676|CaH 5.96 3.60 6.82
  SrH 6.38 3.88 7.34 BaH 6.80 4.17 7.87
MH3|hydride|225|5.3|A 0 0 0; B .5 .5 .5; B .25 .25 .25|YH 5.25 LaH 5.6 ScH 4.8 BiH AlH
MH3 ReO3|hydride|221|3.4|A 0 0 0; B .5 0 0|AlH 3.4 ScH GaH CrH
MH3 rhombohedral|hydride|167|4.45 4.45 11.8|A 0 0 0; B .63 0 1/4|AlH 4.45 4.45 11.8 GaH BH
MH3 A15|hydride|223|3.1|A 0 0 0; B 1/4 0 1/2|AlH 3.1 GaH 3.2 SiH 3.1 GeH 3.2
H3S|hydride|229|3.0|A 0 0 0; B 0 0 .5|SH 2.98 SeH 3.1 PH 3.1 ClH 3.0 TeH
MH6|hydride|229|3.5|A 0 0 0; B 0 .5 .25|CaH 3.5 YH 3.6 ScH 3.35 MgH 3.3 LaH 3.9 SrH 3.75
MH10|hydride|225|5.1|A .5 .5 .5; B .25 .25 .25; B .12 .12 .12|LaH 5.1 YH 4.75 SrH 5.3
ABH3|hydride|221|4.0|A 0 0 0; B .5 .5 .5; C .5 .5 0|SrLiH 3.83 BaLiH 4.02 KMgH 4.02 NaMgH 3.83
  RbCaH 4.55 CsCaH 4.6 SrPdH 3.82 CaNiH 3.55 CaPdH 3.7 RbMgH 4.2 KMnH LaNiH
M2FeH6|hydride|225|6.45|A 0 0 0; B .25 .25 .25; C .242 0 0|FeMgH 6.44 OsMgH 6.68 RuCaH 7.23 FeCaH
  7.04 PtNaH 7.4 PtKH 8.1 RuSrH 7.6 SiKH 7.85 RuMgH 6.66 PdKH
ABH4|hydride|216|6.1|A .5 .5 .5; B 0 0 0; C .115 .115 .115|NaBH 6.15 KBH 6.73 RbBH 7.03 CsBH 7.42
  LiBH 5.7 TlBH
AAlH4|hydride|88|5.02 5.02 11.3|A 0 0 .5; B 0 0 0; C .237 .13 .078|NaAlH 5.02 5.02 11.3 LiAlH KGaH
AHX2|hydride|215|4.0|A 0 0 0; B .5 .5 .5; C .654 .654 .654|ClNH 3.87 BrNH 4.06 INH 4.37 FNH
M(OH)2|hydride|164|3.3 3.3 4.8|A 0 0 0; B 1/3 2/3 .226; C 1/3 2/3 .425|MgOH 3.14 3.14 4.77 CaOH
  3.59 3.59 4.91 MnOH 3.32 3.32 4.73 NiOH 3.13 3.13 4.6 CdOH 3.5 3.5 4.7 CoOH ZnOH FeOH
MOH|hydride|129|3.55 3.55 4.33|A 0 0 0; B 0 .5 .194; C 0 .5 .41|LiOH 3.55 3.55 4.33 NaOH
ice X|hydride|224|2.9|A .25 .25 .25; B 0 0 0|HO 2.9 HS 3.8
MXH|hydride|129|4.1 4.1 7|A 0 0 0; B 0 .5 .2; C 0 .5 .65|HCaCl 3.85 3.85 6.86 HBaCl 4.41 4.41 7.2
  HSrBr 4.26 4.26 7.29 HSrI 4.4 4.4 8.4 HCaBr 3.86 3.86 7.9
NaHF2|hydride|166|3.48 3.48 13.76|A 0 0 0; B 0 0 .5; C 0 0 .415|NaHF 3.48 3.48 13.76
"""

_ELECTRIDES = """
anti-CdCl2|electride|166|3.7 3.7 20|A 0 0 0; B 0 0 .267|NSr 3.86 3.86 20.7 CY 3.617 3.617 17.97 CSc
  3.4 3.4 16.9 NMg PCa AsSr CLa NLa PSr NY PY CZr
anti-CdI2|electride|164|3.6 3.6 6.3|A 0 0 0; B 1/3 2/3 .26|NSr 3.86 3.86 6.9 CY 3.62 3.62 6.0 CSc
  NMg NTl NLa PCa CZr NHf PBa AsCa
anti-NiAs|electride|194|3.5 3.5 11.7|A 1/3 2/3 1/4; B 1/3 2/3 .6|SHf 3.37 3.37 11.8 SZr 3.45 3.45
  12.1 SeHf SeZr SY TeZr
hP4|electride|194|3.0 3.0 4.2|A 0 0 0; A 1/3 2/3 1/4|K Li Rb Cs Ca Al Mg Sr Ba
void bcc|electride|229|3.0|A 0 0 0|Li 2.9 Na 3.3 Ca 3.4 K 4.0 Cs 4.4 Rb 4.3 Sr 3.7 Mg Ba
void diamond|electride|227|6|A 0 0 0|Li 4.5 Na 5.3 Mg 5.2 Ca Be Al K
void cubic|electride|221|3|A 0 0 0|Li 2.3 Na 2.8 Ca 2.6 K 3.2 Sr 2.9 Be 2.1 Mg 2.5
cI16|electride|220|5.27|A .055 .055 .055|Li 5.27 Na 5.6
Na2He|electride|225|3.95|A 0 0 0; B .25 .25 .25|HeNa 5.2 HeK 6.2 HeLi 4.4 HeMg 5.2 NeNa
missing anion|electride|221|4.2|A 0 0 0; A .5 .5 0; B .5 0 0|MgO 4.21 CaO 4.81 LiF 4.03 NaF 4.63
  NaCl 5.64 KCl 6.29 SrO 5.16 CaS 5.69 MgS 5.2 LiH 4.08 BaO 5.52 YN 4.88 KF 5.35 NaH 4.88 LiCl 5.13
  MgSe KBr
LaScSi|electride|139|4.3 4.3 15.9|A 0 0 .324; B 0 .5 0; C 0 0 .127|LaScSi 4.32 4.32 15.9 LaScGe
  4.38 4.38 16.2 YTiGe LaTiGe YScSi LaZrSi
Mn5Si3|electride|193|8 8 6|A .25 0 1/4; A 1/3 2/3 0; B .6 0 1/4|YSi 8.4 8.4 6.3 LaPb CaSb CaP CaBi
  ScSi BaSb YGe SrBi CaAs
AeX octet|electride|225|6.4|A 0 0 0; B .25 .25 .25; B .5 .5 .5|CCa NLi OBa SCs PK
"""


def _table(text: str) -> list[Prototype]:
    return [_parse(line) for line in text.strip().replace("\n  ", " ").splitlines()]


PROTOTYPES = tuple(
    prototype
    for table in (
        _ELEMENTS,
        _INTERMETALLIC,
        _SIMPLE,
        _TERNARY,
        _FRAMEWORKS,
        _HYDRIDES,
        _ELECTRIDES,
    )
    for prototype in _table(table)
)
