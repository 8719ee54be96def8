"""Language codes of evaluation files (ISO 639-3) as the codes of this project: ISO 639-1 where there is one."""

from __future__ import annotations

# Individual languages stand for their macrolanguage where the files know only one of them: Mandarin for Chinese (cmn),
# Standard Malay (zsm), Swahili (swh), Western Persian (pes), Standard Latvian (lvs).
_CODES = (
    "afr:af amh:am ara:ar aze:az bel:be ben:bn bos:bs bre:br bul:bg cat:ca ces:cs cha:ch cmn:zh cor:kw cym:cy "
    "dan:da deu:de ell:el eng:en epo:eo est:et eus:eu fao:fo fin:fi fra:fr fry:fy gla:gd gle:ga glg:gl heb:he "
    "hin:hi hrv:hr hun:hu hye:hy ido:io ile:ie ina:ia ind:id isl:is ita:it jav:jv jpn:ja kat:ka kaz:kk khm:km "
    "kor:ko kur:ku lat:la lit:lt lvs:lv mal:ml mar:mr mkd:mk mon:mn nld:nl nno:nn nob:nb oci:oc pes:fa pol:pl "
    "por:pt ron:ro rus:ru slk:sk slv:sl spa:es sqi:sq srp:sr swe:sv swh:sw tam:ta tat:tt tel:te tgl:tl tha:th "
    "tuk:tk tur:tr uig:ug ukr:uk urd:ur uzb:uz vie:vi xho:xh yid:yi zsm:ms"
)
_SHORT = dict(pair.split(":") for pair in _CODES.split())


def short_code(code: str) -> str:
    """Return the ISO 639-1 code of an ISO 639-3 one, or `code` itself where there is none ("cbk", "yue")."""
    return _SHORT.get(code, code)
