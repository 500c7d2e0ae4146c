"""Where weights of other recipes than `keras.applications`' are published, without their tops, and their checksums.

As in the catalogue of the `efficientnet` package, to which a test holds them. The package is no dependency, because
scikit-image, which it asks for, replaces the NumPy of an older TensorFlow.
"""

NOISY_STUDENT_URL = "https://github.com/qubvel/efficientnet/releases/download/v0.0.1/"
NOISY_STUDENT_MD5 = {
    "efficientnet-b0": "a5b48ae7547fc990c7e4f3951230290d",
    "efficientnet-b1": "4d35baa41ca36f175506a33918f7e334",
    "efficientnet-b2": "e496e531f41242598288ff3a4b4199f9",
    "efficientnet-b3": "47da5b154de1372b557a65795d3e6135",
    "efficientnet-b4": "47c10902a4949eec589ab92fe1c35ed8",
    "efficientnet-b5": "4d53ef3544d4114e2d8080d6d777a74c",
    "efficientnet-b6": "71f96d7e15d9f891f3729b4f4e701f77",
    "efficientnet-b7": "e112b00c464fe929b821edbb35d1af55",
}
AUTOAUGMENT_URL = "https://github.com/Callidior/keras-applications/releases/download/efficientnet/"
AUTOAUGMENT_SHA256 = {
    "efficientnet-b0": "c1421ad80a9fc67c2cc4000f666aa50789ce39eedb4e06d531b0c593890ccff3",
    "efficientnet-b1": "75de265d03ac52fa74f2f510455ba64f9c7c5fd96dc923cd4bfefa3d680c4b68",
    "efficientnet-b2": "433b60584fafba1ea3de07443b74cfd32ce004a012020b07ef69e22ba8669333",
    "efficientnet-b3": "c5d42eb6cfae8567b418ad3845cfd63aa48b87f1bd5df8658a49375a9f3135c7",
    "efficientnet-b4": "7942c1407ff1feb34113995864970cd4d9d91ea64877e8d9c38b6c1e0767c411",
    "efficientnet-b5": "9d197bc2bfe29165c10a2af8c2ebc67507f5d70456f09e584c71b822941b1952",
    "efficientnet-b6": "1d0923bb038f2f8060faaf0a0449db4b96549a881747b7c7678724ac79f427ed",
    "efficientnet-b7": "60b56ff3a8daccc8d96edfd40b204c113e51748da657afd58034d54d3cec2bac",
}
