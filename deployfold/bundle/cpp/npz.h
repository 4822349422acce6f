// Reads an .npz file as NumPy's savez writes it: a zip archive of uncompressed .npy files.
#pragma once

#include <map>
#include <string>

#include "model.h"

/// The arrays by name, without ".npy".
std::map<std::string, Array> read_npz(const std::string& path);
