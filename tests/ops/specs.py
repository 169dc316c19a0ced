"""The products of the forward pass, by the letters of their weight."""

SPECS = {
    "D N H": "BSD,DNH->BSNH",
    "D K H": "BSD,DKH->BSKH",
    "N H D": "BSNH,NHD->BSD",
    "D F": "BSD,DF->BSF",
    "F D": "BSF,FD->BSD",
    "V D": "BSD,VD->BSV",
}
