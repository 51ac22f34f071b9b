#!/usr/bin/env bash
# Shows the library at work, after setup and build; about a minute on two cores. All on the
# handwritten digits that scikit-learn ships:
#
#   1. Python trains a net without batch norm, with torch's and with torchbn's, compares them, draws
#      a picture and saves the third as TorchScript (examples/train_digits.py).
#   2. C++ loads that model and must predict what Python does (examples/infer_digits.cpp).
#   3. C++ trains a net of its own with torchbn::nn::BatchNorm2d (examples/train.cpp).
#
# Everything it writes is in build/demo/.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  -h | --help) help && exit ;;
  '') ;;
  *) die "unknown argument $1; see --help" ;;
esac

"$root/scripts/build.sh"

start=$SECONDS
demo=$build/demo
programs=$build/examples
for program in infer_digits train; do
  [[ -x $programs/$program ]] || die "build/examples/$program is missing: configure with -DTORCHBN_BUILD_EXAMPLES=ON"
done
mkdir -p "$demo"

say "1. Training in Python: without batch norm, with torch.nn's, with torchbn's"
"$venv/bin/python" -u "$root/examples/train_digits.py" --output "$demo"

say "2. The trained model as TorchScript in a C++ program"
"$programs/infer_digits" "$demo/model.pt" "$demo/digits.pt" | tee "$demo/infer_digits.txt"

say "3. Training in C++"
"$programs/train" "$demo/digits.pt" | tee "$demo/train.txt"

say "Summary, after $((SECONDS - start)) seconds"
cat "$demo/table.txt"
echo
tail -n 1 "$demo/infer_digits.txt"
tail -n 1 "$demo/train.txt"
echo "picture: build/demo/batch_norm.png"
