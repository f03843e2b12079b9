import pytest
from qtpy.QtWidgets import QWidget

from napari_vox3d.gui.controls import note, scrolled_form


@pytest.mark.parametrize("size", [(260, 150), (320, 600)])
def test_wrapped_text_is_never_cut_off(qtbot, size):
    window = QWidget()
    qtbot.addWidget(window)
    form = scrolled_form(window)
    labels = [note("Some words on what this does, long enough to wrap. " * 4) for _ in range(4)]
    for label in labels[:3]:
        form.addRow(label)
    inner = QWidget()
    form.addRow(inner)
    window.resize(*size)
    window.show()
    form.addRow(labels[3])  # controls may come later
    qtbot.waitUntil(
        lambda: all(label.height() >= label.heightForWidth(label.width()) > 0 for label in labels)
    )
