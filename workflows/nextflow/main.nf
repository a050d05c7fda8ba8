// Reads what nf-core/spatialvi published (OUTDIR/SAMPLE/data/sdata_processed.zarr), imputes each section, and makes one page.
// nextflow run workflows/nextflow --input 'results/*/data/sdata_processed.zarr' --outdir imputed

include { SNRMIX_IMPUTE } from './modules/snrmix/impute/main'

process SHEET {
    publishDir params.outdir, mode: 'copy'

    input:
    path records

    output:
    path 'summary.csv'

    script:
    """
    printf 'record,status,mse_ratio,pearson_median,n_reliable\\n' > summary.csv
    for record in ${records}; do
        python -c 'import json, sys; r = json.load(open(sys.argv[1])); s = r["scores"]; print(sys.argv[1], r["status"], s["mse_ratio"], s["pearson_median"], s["n_reliable"], sep=",")' \$record >> summary.csv
    done
    """
}

process MULTIQC {
    publishDir params.outdir, mode: 'copy'

    input:
    path contents

    output:
    path 'multiqc_report.html'

    script:
    """
    multiqc --force .
    """
}

workflow {
    sections = Channel
        .fromPath(params.input, type: 'dir', checkIfExists: true)
        .map { zarr -> [ [ id: zarr.parent.parent.name ], zarr ] }

    SNRMIX_IMPUTE(sections)
    SHEET(SNRMIX_IMPUTE.out.json.map { it[1] }.collect())
    MULTIQC(SNRMIX_IMPUTE.out.multiqc.collect())
}
