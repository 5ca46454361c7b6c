// The C face of the hot loops. Swift callers check every size once; nothing here checks again.
#pragma once

#include "oplora_element.h"
#include "oplora_pool.h"
#include "oplora_training.h"
#include "oplora_merge.h"
#include "oplora_huffman.h"
#include "oplora_planes.h"
#include "oplora_crc32.h"
#include "oplora_statistics.h"
#include "oplora_panels.h"
#include "oplora_verify.h"
